"""Looking at processes from outside: who lives, who is left, and waiting for it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has reaped yet is dead."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0, what: str = "") -> None:
    """Wait for a condition; fails with what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def tree(pid: int) -> dict[int, str]:
    """Every living process below ``pid``, with its command."""
    found = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found[process.pid] = " ".join(process.cmdline()) or process.name()
    return found


def below(pid: int, mark: str) -> list[int]:
    """The processes below ``pid`` whose command holds ``mark``."""
    return [each for each, command in tree(pid).items() if mark in command]


def left(pids: Iterable[int]) -> list[int]:
    """Those that still run."""
    return [pid for pid in pids if is_alive(pid)]


def tagged(tag: str) -> dict[int, str]:
    """Every living process with ``tag`` in its environment or its arguments."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = [*process.cmdline(), *process.environ().values()]
            if any(tag in word for word in words):
                found[process.pid] = " ".join(process.cmdline())
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Signal a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def python(code: str, folder: Path, *args: str, **env: str) -> subprocess.Popen[str]:
    """Python code as a process of its own, with its temporary files under ``folder``."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(folder), **env},
    )


def environment(folder: Path) -> dict[str, str]:
    """This environment with everything that distill writes under ``folder``, and no key."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if "KEY" not in name and not name.startswith("OPENAI_") and "PROXY" not in name.upper()
    }
    names = ("TMPDIR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME")
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, **dict.fromkeys(names, str(folder)), "PYTHONPATH": path}


def context_files() -> list[Path]:
    """This process's descriptors of memory files with a context."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the folder itself
            if "memfd:context" in str(fd.readlink()):
                found.append(fd)
    return found
