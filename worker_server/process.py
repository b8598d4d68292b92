"""What this process does to itself and to the processes it started."""

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

from distill.worker_server.inside import SCRATCH_VARIABLE

T = TypeVar("T")
PR_SET_PDEATHSIG = 1
PF_EXITING = 0x4
"""In the flags of /proc/PID/stat."""
SCRATCH_LIMIT_CHARS = 70
"""A socket's path ends at 107 bytes, and vLLM adds 37."""


def die_with_parent(parent: int | None = None) -> None:
    """SIGKILL this process when its parent ends. Call it before any thread is started.

    ``parent`` is the pid of who started it: without it nobody notices that it ended before this
    call. A worker server needs none: its launcher has tied it to itself before it is executed.
    Raises OSError where the kernel refuses, or where the parent is already gone.
    """
    parent = parent or os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        raise ProcessLookupError("the parent process is gone")


@contextlib.contextmanager
def temporary_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """``variables`` while vLLM is imported and starts its processes; then as it was.

    vLLM adds some of its own (LD_PRELOAD for its worker among them): these go too.
    """
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def bound_to(cores: Sequence[int]) -> Iterator[None]:
    """Bind this thread, and so the processes it starts meanwhile, to ``cores``; empty: nothing."""
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def hidden_main() -> Iterator[None]:
    """Keep spawned processes from importing the user's main module.

    vLLM's EngineCore needs nothing of it, and a script without the ``__name__`` guard would
    start a second engine inside the first.
    """
    real = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = real


def in_daemon_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """``work()`` beside the event loop; unlike ``to_thread``, the loop can end without it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(outcome)  # type: ignore[arg-type]

    def run() -> None:
        outcome, failed = None, None
        try:
            outcome = work()
        except BaseException as error:  # noqa: BLE001  (handed to whoever awaits)
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop ended meanwhile
            loop.call_soon_threadsafe(settle, outcome, failed)

    threading.Thread(target=run, name="load", daemon=True).start()
    return future


def kill_children(*, started_with: str | None = None) -> None:
    """SIGKILL all processes below this one; with ``started_with``, those of that engine only."""
    doomed = children(started_with=started_with)
    for child in doomed:
        with contextlib.suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(doomed, timeout=5)


def children(*, started_with: str | None = None) -> list[psutil.Process]:
    """All processes below this one; with ``started_with``, those of that engine only."""
    below = psutil.Process().children(recursive=True)
    return [each for each in below if started_with is None or _belongs(each, started_with)]


def is_stopped(process: psutil.Process) -> bool:
    """Whether it was stopped by a signal; being traced is not meant, nor having ended."""
    with contextlib.suppress(psutil.Error):
        return process.status() == psutil.STATUS_STOPPED
    return False


def is_ending(pid: int) -> bool:
    """Whether the kernel ends it: its memory is freed first, which may take seconds, and only
    then are its descriptors closed and its end told.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False  # it has ended, and that is told
    return bool(int(stat.rpartition(")")[2].split()[6]) & PF_EXITING)


def _belongs(child: psutil.Process, scratch: str) -> bool:
    """Python's resource tracker is shared with the user's own code and ends by itself."""
    with contextlib.suppress(psutil.Error):
        return child.environ().get(SCRATCH_VARIABLE) == scratch and not any(
            "resource_tracker" in part for part in child.cmdline()
        )
    return False


def make_scratch(parent: Path | None) -> str:
    """A folder of our own for vLLM's socket and rendezvous files."""
    for place in (parent, None, Path("/tmp")):  # noqa: S108  (mkdtemp makes it 0700)
        scratch = tempfile.mkdtemp(prefix="engine-" if place == parent else "distill-", dir=place)
        if len(scratch) <= SCRATCH_LIMIT_CHARS:
            return scratch
        shutil.rmtree(scratch)
    return tempfile.mkdtemp(prefix="distill-", dir="/tmp")
