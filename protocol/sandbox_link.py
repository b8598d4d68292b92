"""Driver ↔ keeper: one keeper a run, one jail at a time behind it.

In its Hello, before it has seen a single hostile byte, the keeper says how a jail is
started on this machine (a JailPlan) or why none can be. The driver has the launcher
start it; the jail's socket reaches the keeper straight from the launcher.
"""

from typing import Literal

from distill.protocol.jail_link import (
    CallError,
    CellError,
    ContextForm,
    ContextKind,
    Limits,
    RunCell,
    Variables,
)
from distill.protocol.message import (
    Count,
    Detail,
    Json,
    LogRecords,
    Message,
    Name,
    Seconds,
    Shutdown,
    Text,
    Transitions,
    Value,
    Welcome,
)

FRAME_LIMIT_BYTES = 80 << 20
"""Above the jail's own cap: what the keeper passes on carries a few more fields."""

Wanted = Literal["auto", "namespaces", "landlock", "none"]
"""A tier by name, or the best that works; never ``none`` unless it is named."""


class JailPlan(Value, frozen=True):
    """How to start a jail: what to execute, with which descriptors.

    ``argv`` finds its descriptors by these numbers: ``socket_fd`` one end of a fresh
    socketpair, ``context_fd`` of one over which the sealed context comes, ``blobs`` sealed
    bytes (the seccomp filter), ``status_fd`` where bubblewrap writes the interpreter's pid as
    JSON. The last word of ``argv`` is ``map`` or ``copy``: how a text is held inside.
    ``uid`` is what the launcher switches to first when it is root (None: stay).
    """

    tier: Literal["namespaces", "landlock", "none"]
    argv: tuple[str, ...]
    env: dict[str, str]
    socket_fd: int
    context_fd: int
    status_fd: int
    blobs: dict[int, bytes]
    uid: int | None = None
    notes: tuple[str, ...] = ()


class NoJail(Value, frozen=True):
    """No safe jail can be built here: what was tried, what the kernel said, the remedy."""

    tried: tuple[str, ...]
    remedy: str


class KeeperHello(Message, frozen=True):
    """A keeper's first message."""

    protocol: int
    keeper: Name
    epoch: Name
    pid: int
    plan: JailPlan | None = None
    refusal: NoJail | None = None


class OpenJail(Message, frozen=True):
    """Make the jail of this id, whose socket the launcher passes, ready for cells."""

    jail: Name
    limits: Limits
    namespace: dict[str, Json]
    functions: tuple[Name, ...]
    context_kind: ContextKind
    context_bytes: Count


class JailReady(Message, frozen=True):
    """The jail said Ready; cells may run."""

    jail: Name
    python: Name
    filtered: bool
    context: ContextForm
    start_s: Seconds
    context_s: Seconds


class JailLost(Message, frozen=True):
    """The jail is gone or was killed. Its namespace is lost; the run goes on.

    ``cause`` is the event, ``detail`` names the limit and the amount where one was hit.
    ``stdout``/``stderr`` are what the open cell had printed, ``cell`` its number.
    """

    jail: Name
    cause: Literal["exit", "signal", "deadline", "memory", "protocol", "output", "start"]
    detail: Detail
    status: int | None = None
    cell: Count | None = None
    stdout: Text = ""
    stderr: Text = ""
    elapsed_s: Seconds = 0.0
    cpu_s: Seconds = 0.0
    spent_s: Seconds = 0.0
    """What the open cell used of ``run_s``."""


class HostCall(Message, frozen=True):
    """The open cell calls a host function."""

    jail: Name
    cell: Count
    call: Count
    function: Name
    args: tuple[Json, ...]
    kwargs: dict[str, Json]


class FinalAnswer(Message, frozen=True):
    """The open cell called FINAL with this value."""

    jail: Name
    cell: Count
    call: Count
    value: Json


class CallReply(Message, frozen=True):
    """The driver's answer to a HostCall or a FinalAnswer."""

    jail: Name
    call: Count
    value: Json = None
    error: CallError | None = None


class CellDone(Message, frozen=True):
    """A cell ended by itself, with its printed text in full up to ``output_bytes``."""

    jail: Name
    cell: Count
    stdout: Text
    stderr: Text
    error: CellError | None = None
    variables: Variables = ()
    elapsed_s: Seconds = 0.0
    cpu_s: Seconds = 0.0
    dropped_bytes: Count = 0
    interrupted: bool = False
    """The soft deadline passed while it ran."""
    live_threads: Count = 0
    spent_s: Seconds = 0.0
    """What the cell used of ``run_s``."""


class CloseJail(Message, frozen=True):
    """Kill the jail; no message about it follows but JailLost with cause 'exit'."""

    jail: Name


FromKeeper = KeeperHello | JailReady | JailLost | HostCall | FinalAnswer | CellDone | LogRecords
ToKeeper = Welcome | OpenJail | RunCell | CallReply | CloseJail | Shutdown

TRANSITIONS: Transitions = {
    "new": {KeeperHello: "greeted"},
    "greeted": {Welcome: "empty", Shutdown: "gone"},
    "empty": {
        OpenJail: "opening",
        LogRecords: "empty",
        CloseJail: "empty",
        CallReply: "empty",
        RunCell: "empty",  # it crossed the JailLost on its way; the keeper ignores it
        Shutdown: "gone",
    },
    "opening": {
        JailReady: "idle",
        JailLost: "empty",
        LogRecords: "opening",
        CloseJail: "opening",
        CallReply: "opening",
        Shutdown: "gone",
    },
    "idle": {
        RunCell: "running",
        JailLost: "empty",
        LogRecords: "idle",
        CloseJail: "idle",
        CallReply: "idle",
        Shutdown: "gone",
    },
    "running": {
        HostCall: "running",
        FinalAnswer: "running",
        CallReply: "running",
        CellDone: "idle",
        JailLost: "empty",
        LogRecords: "running",
        CloseJail: "running",
        Shutdown: "gone",
    },
    "gone": {},
}
"""State → message → next state, whoever sends it."""


class SignalJail(Message, frozen=True):
    """Keeper → launcher: interrupt or kill the jail of this id."""

    jail: Name
    signal: Literal["INT", "KILL"]


class JailSocket(Message, frozen=True):
    """Launcher → keeper, with the jail's socket attached (SCM_RIGHTS)."""

    jail: Name
    pid: int
    """The interpreter's pid on the host: its CPU clock is read through it."""


class JailExited(Message, frozen=True):
    """Launcher → keeper: the jail's process was reaped; a negative status is a signal.

    ``out_of_memory``: the kernel has killed in its cgroup, whose memory was used up.
    """

    jail: Name
    status: int
    out_of_memory: bool = False


class JailRefused(Message, frozen=True):
    """Launcher → keeper: the jail could not be started."""

    jail: Name
    detail: Detail


KeeperToLauncher = SignalJail
LauncherToKeeper = JailSocket | JailExited | JailRefused
