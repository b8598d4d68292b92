"""What this machine holds of us: counted before and after, so that a leak has a name."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (looked at, never written)
LOOK_S = 0.2
STILL_S = 3.0
"""What waits for more to do (threads for calls) has given up by then."""


@dataclass(frozen=True)
class Census:
    """Things by name; ``rss_bytes`` of the processes that stay is compared apart."""

    processes: tuple[str, ...] = ()
    descriptors: dict[str, int] = field(default_factory=dict)
    threads: dict[str, int] = field(default_factory=dict)
    mounts: int = 0
    cgroups: tuple[str, ...] = ()
    shared_memory: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    rss_bytes: dict[str, int] = field(default_factory=dict)

    def unlike(self, other: Census) -> dict[str, str]:
        """What is not as in ``other``: name → how it was there and is here."""
        return {
            name: f"{getattr(other, name)} → {getattr(self, name)}"
            for name in self.__dataclass_fields__
            if name != "rss_bytes" and getattr(self, name) != getattr(other, name)
        }


def take(folder: Path, launcher_pid: int | None) -> Census:
    """Count, with all temporary files under ``folder``; no launcher once the driver is closed."""
    lasting = {"driver": psutil.Process()}
    if launcher_pid is not None:
        lasting["launcher"] = psutil.Process(launcher_pid)
    return Census(
        processes=tuple(sorted(_kind(each) for each in psutil.Process().children(recursive=True))),
        descriptors={name: process.num_fds() for name, process in lasting.items()},
        threads={name: process.num_threads() for name, process in lasting.items()},
        mounts=len(Path("/proc/self/mountinfo").read_text().splitlines()),
        cgroups=tuple(sorted(str(path) for path in CGROUPS.rglob("*distill*"))),
        shared_memory=tuple(sorted(path.name for path in SHARED_MEMORY.glob("*distill*"))),
        files=tuple(sorted(_name(path, folder) for path in folder.rglob("*"))),
        rss_bytes={name: process.memory_info().rss for name, process in lasting.items()},
    )


def _kind(process: psutil.Process) -> str:
    """What a process is, without what tells it from its like."""
    try:
        words = process.cmdline()
    except psutil.NoSuchProcess:
        return "gone"
    for mark in ("launcher", "keeper", "bwrap", "interpreter.py"):
        if any(mark in word for word in words[:3] + words[-3:]):
            return mark
    return " ".join(words) or process.name()


def _name(path: Path, folder: Path) -> str:
    """A file under ``folder``, its numbers left out: the next keeper's log is no other thing."""
    return re.sub(r"\d+", "#", str(path.relative_to(folder)))


def settled(look: Callable[[], Census], like: Census | None, patience_s: float) -> Census:
    """The census once it is ``like`` another (or has not changed for a while), or at the end."""
    deadline = time.monotonic() + patience_s
    last, since = look(), time.monotonic()
    while time.monotonic() < deadline:
        if like is not None and not last.unlike(like):
            break
        if like is None and time.monotonic() - since > STILL_S:
            break
        time.sleep(LOOK_S)
        now = look()
        if now.unlike(last):
            since = time.monotonic()
        last = now
    return last


def private_folder(name: str) -> Path:
    """A temporary folder that everything started from here on uses as its TMPDIR."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix=name))
    os.environ["TMPDIR"] = str(folder)
    os.environ.pop("XDG_RUNTIME_DIR", None)
    tempfile.tempdir = None
    return folder
