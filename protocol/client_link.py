"""Client ↔ resident driver: questions from `distill run` and from ``Engine(endpoint)``.

Same machine, same uid: contexts travel as paths, keys never travel.
"""

from distill.protocol.message import (
    Count,
    Detail,
    Json,
    Message,
    Name,
    Seconds,
    Text,
    Transitions,
    Welcome,
)

FRAME_LIMIT_BYTES = 64 << 20


class ClientHello(Message, frozen=True):
    """A client's first message."""

    protocol: int
    client: Name
    pid: int


class Ask(Message, frozen=True):
    """One question. Paths are absolute; ``options`` are the run's, as `--help` names them."""

    ask: Name
    query: Text
    context_paths: tuple[str, ...]
    supervisor: str | None = None
    options: dict[str, Json] = {}


class Stop(Message, frozen=True):
    """The client no longer wants this answer; its run is cancelled."""

    ask: Name


class AddAdapter(Message, frozen=True):
    """Load a LoRA adapter, or a new version of it, from a folder as the workers see it.

    ``model`` None is the engine's own.
    """

    ask: Name
    adapter: Name
    path: Text
    model: str | None = None


class Progress(Message, frozen=True):
    """How far a run is."""

    ask: Name
    run: Name
    turn: Count
    turns: Count
    calls_done: Count
    calls_total: Count
    calls_failed: Count
    tokens: Count
    elapsed_s: Seconds
    note: str = ""


class Answer(Message, frozen=True):
    """A run ended; ``result`` is its RunResult as a JSON object, ``summary`` for people."""

    ask: Name
    result: dict[str, Json]
    summary: Text


class AdapterAdded(Message, frozen=True):
    """The version that answers from now on; ``refused`` has the reasons of workers that can't."""

    ask: Name
    adapter: Name
    version: Count
    model: str
    path: Text
    files_hash: str
    workers: tuple[str, ...]
    refused: dict[str, str] = {}


class Failed(Message, frozen=True):
    """A question that could not be run, or an adapter that could not be loaded.

    ``exit_code`` is as the command line documents it.
    """

    ask: Name
    kind: Name
    detail: Detail
    exit_code: int


FromClient = ClientHello | Ask | Stop | AddAdapter
ToClient = Welcome | Progress | Answer | AdapterAdded | Failed

TRANSITIONS: Transitions = {
    "new": {ClientHello: "greeted"},
    "greeted": {Welcome: "open"},
    "open": {
        Ask: "open",
        Stop: "open",
        Progress: "open",
        Answer: "open",
        AddAdapter: "open",
        AdapterAdded: "open",
        Failed: "open",
    },
}
"""State → message → next state, whoever sends it."""
