"""Keeper ↔ interpreter, over one inherited socketpair: the only bytes a jail can send.

A frame is a 4-byte big-endian length and one MessagePack map. The interpreter's side is
written with ``msgpack`` alone (``distill.sandbox.jail``); this side is strict. Golden
vectors hold the two together. Integers beyond 64 bits travel as extension type 1 (their
decimal digits).
"""

from typing import Annotated, Literal

import msgspec

from distill.protocol.message import (
    Count,
    Detail,
    Json,
    Message,
    Name,
    Seconds,
    Short,
    Text,
    Transitions,
    Value,
)

HEADER_BYTES = 4
FRAME_LIMIT_BYTES = 64 << 20
"""Of one frame, and of the frames of all open calls of a jail together."""
BIG_INT_EXT = 1
ELEMENT_LIMIT = 1_000_000
"""Values in one frame, and in all open calls of a jail together; a map's keys count."""
DEPTH_LIMIT = 102
"""Containers around a value in a frame: the message, its args, and 100 of the cell's own."""

Stream = Literal["stdout", "stderr"]
ContextKind = Literal["ascii", "latin-1", "ucs2", "ucs4", "json", "none"]
"""How the context's memory file is to be read: characters of 1, 1, 2 or 4 bytes and a zero
(the kinds of PEP 393), or JSON."""
ContextForm = Literal["mapped", "copied", "json", "none"]
"""How the interpreter holds it: a str over the mapping, a str of its own, a list or dict."""


class Limits(Value, frozen=True):
    """What one jail may use. A cell's clock is max(CPU time, wall time without a host call).

    At ``cell_s`` the cell gets a KeyboardInterrupt; ``grace_s`` later the jail is killed.
    ``output_bytes`` bounds what a cell may print (the rest is counted, not kept).
    """

    memory_bytes: Count = 2 << 30
    scratch_bytes: Count = 256 << 20
    scratch_inodes: Count = 16384
    output_bytes: Count = 8 << 20
    open_files: Count = 256
    threads: Count = 64
    cell_s: Seconds = 120.0
    grace_s: Seconds = 5.0
    run_s: Seconds = 3600.0
    calls_in_flight: Count = 64
    calls_per_cell: Count = 10_000
    call_bytes: Count = 16 << 20


class Init(Message, frozen=True):
    """Everything a fresh interpreter needs; it answers Ready before any cell runs.

    ``namespace`` are the names' values, ``functions`` the names that call the host.
    The context's memory file arrives on descriptor ``context_fd``, a socket.
    """

    limits: Limits
    namespace: dict[str, Json]
    functions: tuple[Name, ...]
    context_kind: ContextKind
    context_fd: int
    context_bytes: Count


class RunCell(Message, frozen=True):
    """Run this code as the cell of this number (the same message goes driver → keeper).

    ``spent_s`` is what counts against ``run_s`` already: all cells of the run, in whatever jail.
    """

    cell: Count
    code: Text
    spent_s: Seconds = 0.0


class Reply(Message, frozen=True):
    """The answer to a call. ``error`` set means: raise it inside."""

    call: Count
    value: Json = None
    error: "CallError | None" = None


class CallError(Value, frozen=True, omit_defaults=True):
    """A host function's failure, raised in the cell as the exception class of this name.

    ``WorkerError`` is one failed item; ``WorkerBatchError``, and ``SubRunError`` of several, carry
    the answers that did arrive (``answers``, None where failed) and ``errors``: index → reason; so
    does ``WorkerBudgetError``, where items were not sent because a budget does not cover them.
    """

    name: Literal[
        "WorkerError",
        "WorkerBatchError",
        "WorkerBudgetError",
        "SubRunError",
        "PrimitiveError",
        "LimitError",
        "FinalError",
    ]
    detail: Detail
    answers: tuple[Json, ...] | None = None
    errors: dict[int, str] | None = None


class Ready(Message, frozen=True):
    """The jail is closed behind the interpreter: limits set, second filter installed."""

    python: Name
    filtered: bool
    context: ContextForm
    context_s: Seconds


class Call(Message, frozen=True):
    """The cell calls a host function by name and waits for Reply."""

    call: Count
    function: Name
    args: tuple[Json, ...]
    kwargs: dict[str, Json]


class Final(Message, frozen=True):
    """The cell called FINAL; the host records the first one before it replies."""

    call: Count
    value: Json


class Output(Message, frozen=True):
    """Text that the cell printed, in order, as it is printed."""

    stream: Stream
    text: Text


class Variable(Value, frozen=True):
    """A name in the namespace, with its type's name, a short repr and its length."""

    name: Short
    type: Short
    repr: Short
    size: int | None = None


Variables = Annotated[tuple[Variable, ...], msgspec.Meta(max_length=2000)]


class CellError(Value, frozen=True, omit_defaults=True):
    """The exception that ended a cell: data, never an exception of ours."""

    name: Short
    message: Detail
    traceback: Detail
    line: int | None = None


class Done(Message, frozen=True):
    """The cell ended by itself. ``dropped_bytes`` counts output over the limit."""

    cell: Count
    error: CellError | None = None
    variables: Variables = ()
    open_calls: Count = 0
    live_threads: Count = 0
    dropped_bytes: Count = 0


FromJail = Ready | Call | Final | Output | Done
ToJail = Init | RunCell | Reply

TRANSITIONS: Transitions = {
    "new": {Init: "starting"},
    "starting": {Ready: "idle"},
    "idle": {RunCell: "running", Output: "idle"},
    "running": {
        Call: "running",
        Final: "running",
        Reply: "running",
        Output: "running",
        Done: "idle",
    },
}
"""State → message → next state. A jail that leaves the table is killed."""
