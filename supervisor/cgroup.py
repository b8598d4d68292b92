"""A cgroup for each jail, where cgroups were delegated to this process (systemd: Delegate=yes).

::

    the delegated folder        hands memory and pids on to those below
      ├─ distill-host           what was in the folder: one that hands on may hold no process
      └─ distill-PID-JAIL       bubblewrap and the interpreter, with memory.max and pids.max

An rlimit counts one process's own memory; a cgroup also what is kept for it: scratch files, page
cache, page tables, buffers. The rules are those of the kernel's cgroup-v2.rst.
"""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

CONTROLLERS = ("memory", "pids")
HOST = "distill-host"
MARKS = ("user.delegate", "trusted.delegate")
"""Attributes by which systemd says that a cgroup is its user's to divide (systemd.exec)."""
OWN = Path("/proc/self/cgroup")
MOUNTS = Path("/proc/self/mountinfo")
MOVES_LIMIT = 16
"""Rounds in which the processes of the folder are moved: they may be starting others."""
SLACK_BYTES = 128 << 20
"""For what a jail does not choose: Python's own files, page tables of a mapped text, bubblewrap."""
SLACK_TASKS = 4
REMOVE_S = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where this process is in the tree of cgroups, and what it may do there."""

    folder: Path
    controllers: tuple[str, ...]
    """Those of CONTROLLERS that can be handed on here."""
    is_delegated: bool


def place() -> Place | None:
    """Look, change nothing; None without cgroup v2."""
    try:
        own = next((line[3:] for line in OWN.read_text().splitlines() if line[:3] == "0::"), None)
        mount = _mount()
    except OSError:
        return None
    if own is None or mount is None:
        return None
    folder = mount / own.lstrip("/")
    if folder.name == HOST:  # an engine that is up has divided it already
        folder = folder.parent
    try:
        given = (folder / "cgroup.controllers").read_text().split()
    except OSError:
        return None
    return Place(folder, tuple(c for c in CONTROLLERS if c in given), _is_delegated(folder))


def _mount() -> Path | None:
    for line in MOUNTS.read_text().splitlines():
        fields = line.split()
        if "cgroup2" in fields[fields.index("-") :]:
            return Path(fields[4])
    return None


def _is_delegated(folder: Path) -> bool:
    """Marked by systemd, or the root of a container's own tree; and writable."""
    if not os.access(folder / "cgroup.subtree_control", os.W_OK):
        return False
    for mark in MARKS:
        with contextlib.suppress(OSError):
            if os.getxattr(folder, mark) == b"1":
                return True
    # The machine's own root has no type, and is nobody's to divide.
    return folder.is_mount() and (folder / "cgroup.type").exists()


def divide() -> "Division | None":
    """Make the folder ready for cgroups of jails; None where nothing was delegated.

    Raises OSError where the kernel refuses: another manager is at work in the folder.
    """
    found = place()
    if found is None or not found.is_delegated:
        return None
    host = found.folder / HOST
    host.mkdir(exist_ok=True)
    for _ in range(MOVES_LIMIT):
        if not (pids := (found.folder / "cgroup.procs").read_text().split()):
            break
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (host / "cgroup.procs").write_text(pid)
    _sweep(found.folder)
    if found.controllers:
        wanted = " ".join(f"+{controller}" for controller in found.controllers)
        (found.folder / "cgroup.subtree_control").write_text(wanted)
    return Division(found.folder, found.controllers)


def _sweep(folder: Path) -> None:
    """Take away what launchers have left that were killed; one with a process in it stays."""
    for left in folder.glob("distill-*-*"):
        pid = left.name.split("-")[1]
        if not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                left.rmdir()


@dataclass(frozen=True, slots=True)
class Division:
    """A delegated folder in which jails get cgroups, with these controllers.

    Without any, a cgroup still lets nothing of its jail outlive it.
    """

    folder: Path
    controllers: tuple[str, ...]

    def make(self, jail: str) -> "Cgroup":
        """A cgroup for this jail. Raises OSError."""
        folder = self.folder / f"distill-{os.getpid()}-{jail}"
        folder.mkdir()
        try:
            return Cgroup(folder, self.controllers)
        except OSError:
            folder.rmdir()
            raise


class Cgroup:
    """One jail's."""

    def __init__(self, folder: Path, controllers: tuple[str, ...]) -> None:
        self.controllers = controllers
        self._folder = folder
        self._write("memory.oom.group", 1)
        self._write("memory.swap.max", 0)
        # Opened here: the rights of whoever opened it count, and the jail's uid has none.
        self._procs_fd = os.open(folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def bound(self, memory_bytes: int, tasks: int) -> None:
        """Set its limits, as far as it has controllers; the slack is added here."""
        self._write("memory.max", memory_bytes + SLACK_BYTES)
        self._write("pids.max", tasks + SLACK_TASKS)

    def enter(self) -> None:
        """Between fork and exec: the process, and all that it will start, lives here."""
        os.write(self._procs_fd, b"0")

    def _write(self, name: str, value: int) -> None:
        if (self._folder / name).exists():
            (self._folder / name).write_text(str(value))

    @property
    def was_out_of_memory(self) -> bool:
        """Whether the kernel has killed in it for memory."""
        try:
            events = (self._folder / "memory.events").read_text().split()
        except OSError:
            return False
        counts = dict(zip(events[::2], events[1::2], strict=True))
        return int(counts.get("oom_kill", 0)) > 0

    def remove(self) -> None:
        """Kill what is left in it, and take it away."""
        os.close(self._procs_fd)
        with contextlib.suppress(OSError):
            (self._folder / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + REMOVE_S
        while time.monotonic() < deadline:
            try:
                self._folder.rmdir()
            except FileNotFoundError:
                return
            except OSError:  # what was killed is not gone yet
                time.sleep(0.002)
