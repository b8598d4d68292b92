"""One background event loop a process: synchronous code waits for it, asynchronous awaits it."""

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

CLEAN_UP_S = 4.0
"""How long an interrupted caller waits for the work to put its things in order."""
WAKE_S = 0.5
"""How often whoever only waits is woken.

IPython's stop button leaves a loop a callback, of which one that is asleep does not hear; a SIGINT
that the kernel gave to another thread interrupts no wait of the main one.
"""

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_owner_pid = 0


def loop() -> asyncio.AbstractEventLoop:
    """The process's background loop, started when first asked for (again after a fork)."""
    global _loop, _owner_pid  # noqa: PLW0603  (one a process is the point)
    with _lock:
        if _loop is None or _owner_pid != os.getpid():
            _loop = asyncio.new_event_loop()
            _owner_pid = os.getpid()
            threading.Thread(target=_loop.run_forever, name="distill-loop", daemon=True).start()
        return _loop


def wait(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` on the background loop and wait for it.

    If the waiting is interrupted (Ctrl-C), the work is cancelled and has CLEAN_UP_S to end.
    Raises RuntimeError on the loop's own thread, where it could never end.
    """
    home = loop()
    try:
        if asyncio.get_running_loop() is home:
            work.close()
            raise RuntimeError("this would wait for itself: it runs on distill's own loop")
    except RuntimeError as error:
        if "no running event loop" not in str(error):
            raise
    ended = threading.Lock()
    ended.acquire()
    job = _Job(work, ended.release)
    home.call_soon_threadsafe(job.start, home)
    try:
        while not ended.acquire(timeout=WAKE_S):
            pass
    except BaseException:
        job.cancel(home)
        ended.acquire(timeout=CLEAN_UP_S)
        raise
    return job.outcome()


class _Job(Generic[T]):
    """A coroutine on the loop for somebody who waits elsewhere, and is told of its end.

    A concurrent.futures.Future between them would cost two more turns of the loop, and be over once
    it is cancelled, not once the work has come to its end.
    """

    def __init__(self, work: Coroutine[Any, Any, T], tell: Callable[[], object]) -> None:
        self._work = work
        self._tell = tell
        self._task: asyncio.Task[None] | None = None
        self._value: T
        self._error: BaseException | None = None

    def start(self, home: asyncio.AbstractEventLoop) -> None:
        """On the loop."""
        self._task = home.create_task(self._run())

    async def _run(self) -> None:
        try:
            self._value = await self._work
        except BaseException as error:  # noqa: BLE001  (raised where it is waited for)
            self._error = error
        finally:
            self._tell()

    def outcome(self) -> T:
        """What the coroutine returned or raised; once, when it has ended."""
        error, self._error = self._error, None
        if error is None:
            return self._value
        try:
            raise error
        finally:
            del error  # or its traceback, which has this frame, would hold itself

    def cancel(self, home: asyncio.AbstractEventLoop) -> None:
        """Have it end. Callable from any thread, also when it has."""
        # A turn later: a task that is cancelled before its first step never comes to its end.
        home.call_soon_threadsafe(lambda: home.call_soon(self._cancel_task))

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()


def waiting(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """The synchronous form of a coroutine function that runs on the background loop."""

    @functools.wraps(function)
    def synchronous(*args: P.args, **kwargs: P.kwargs) -> T:
        return wait(function(*args, **kwargs))

    return synchronous


def arriving(
    function: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """The form of it that may be awaited on any other loop.

    If the awaiting task is cancelled, the work is cancelled and has CLEAN_UP_S to end.
    """

    @functools.wraps(function)
    async def asynchronous(*args: P.args, **kwargs: P.kwargs) -> T:
        home, here = loop(), asyncio.get_running_loop()
        ended = asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed
                here.call_soon_threadsafe(ended.set)

        job = _Job(function(*args, **kwargs), tell)
        home.call_soon_threadsafe(job.start, home)
        try:
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), WAKE_S)
        except asyncio.CancelledError:
            job.cancel(home)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), CLEAN_UP_S)
            raise
        return job.outcome()

    return asynchronous
