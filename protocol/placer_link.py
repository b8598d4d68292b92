"""Driver ↔ placer: worker servers on the nodes of a Ray cluster.

The placer is to the cluster what the launcher is to this machine, and is spoken to in the
launcher's words: Spawn and Kill there, Started, NotStarted and Exited back. In the arguments of a
Spawn, ``{python}`` becomes the node's interpreter, ``{devices}`` the GPUs or cores that Ray gave,
``{driver}`` the address of the driver's node.
"""

from distill.protocol.launcher_link import Exited, Kill, NotStarted, Spawn, Started
from distill.protocol.message import (
    Detail,
    LogRecords,
    Message,
    Name,
    Short,
    Shutdown,
    Transitions,
    Welcome,
)

FRAME_LIMIT_BYTES = 1 << 20


class PlacerHello(Message, frozen=True):
    """The placer's first message."""

    protocol: int
    pid: int


class Placed(Message, frozen=True):
    """Ray has found a place for a child, which is about to be started there."""

    child: Name
    node: Short
    address: Short
    devices: Short


class Waiting(Message, frozen=True):
    """What has no place yet, and what the cluster has; empty when nothing waits any more."""

    detail: Detail = ""


class PlacerFailed(Message, frozen=True):
    """The cluster can't be used; the placer exits after this."""

    detail: Detail


FromPlacer = (
    PlacerHello | Placed | Waiting | Started | NotStarted | Exited | LogRecords | PlacerFailed
)
ToPlacer = Welcome | Spawn | Kill | Shutdown

TRANSITIONS: Transitions = {
    "new": {PlacerHello: "greeted"},
    "greeted": {Welcome: "ready", Shutdown: "gone"},
    "ready": {
        Spawn: "ready",
        Kill: "ready",
        Placed: "ready",
        Waiting: "ready",
        Started: "ready",
        NotStarted: "ready",
        Exited: "ready",
        LogRecords: "ready",
        PlacerFailed: "gone",
        Shutdown: "gone",
    },
    "gone": {},
}
"""State → message → next state, whoever sends it."""
