"""Driver ↔ launcher, over one inherited SEQPACKET pair: a message a packet.

The pair is the driver's pulse: when it closes, the launcher kills every group it started
and removes the run directory.
"""

from distill.protocol.message import Count, Detail, Message, Name
from distill.protocol.sandbox_link import JailPlan

PACKET_LIMIT_BYTES = 160 << 10
"""A packet must fit the socket's send buffer (net.core.wmem_default is 208 KiB)."""


class Spawn(Message, frozen=True):
    """Start a child in its own process group; its output is appended to ``output_path``.

    ``{control_fd}`` in an argument becomes the number of the child's control socket:
    keepers get one, to be handed their jails' sockets.
    """

    child: Name
    argv: tuple[str, ...]
    env: dict[str, str]
    output_path: str
    control: bool = False


class SpawnJail(Message, frozen=True):
    """Start a jail by this plan and pass its socket to this keeper."""

    jail: Name
    keeper: Name
    plan: JailPlan


class JailContext(Message, frozen=True):
    """Pass the attached memory file (SCM_RIGHTS) on to this jail, which waits for it."""

    jail: Name


class BoundJail(Message, frozen=True):
    """What this jail may use in all, where it has a cgroup; nothing changes where it has none."""

    jail: Name
    memory_bytes: Count
    tasks: Count


class Kill(Message, frozen=True):
    """Kill the process group of a child or of a jail; unknown names are ignored."""

    child: Name


class LastWord(Message, frozen=True):
    """Where the launcher leaves a record if the driver dies: the spools of its log folders."""

    spools: tuple[str, ...]


class Started(Message, frozen=True):
    """A child or jail runs; ``cgroup`` are the controllers of the cgroup that a jail has."""

    child: Name
    pid: int
    cgroup: tuple[Name, ...] = ()


class NotStarted(Message, frozen=True):
    """A child or jail could not be started."""

    child: Name
    detail: Detail


class Exited(Message, frozen=True):
    """A child or jail ended, and its whole group is dead; a negative status is a signal."""

    child: Name
    status: int
    group_size: Count = 0
    """Processes of the group that outlived the child and were killed."""


ToLauncher = Spawn | SpawnJail | JailContext | BoundJail | Kill | LastWord
FromLauncher = Started | NotStarted | Exited
