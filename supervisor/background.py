"""One background event loop a process: synchronous code waits for it, asynchronous awaits it."""

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

CLEAN_UP_S = 4.0
"""How long an interrupted caller waits for the work to put its things in order."""

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
    job = _Job(work)
    home.call_soon_threadsafe(job.start, home)
    try:
        return job.result()
    except BaseException:
        job.cancel(home)
        raise


class _Job(Generic[T]):
    """A coroutine on the loop and a thread that waits for it.

    A concurrent.futures.Future between them would cost two more turns of the loop.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self._value: T
        self._error: BaseException | None = None
        self._ended = threading.Lock()
        self._ended.acquire()

    def start(self, home: asyncio.AbstractEventLoop) -> None:
        """On the loop."""
        self._task = home.create_task(self._run())

    async def _run(self) -> None:
        try:
            self._value = await self._work
        except BaseException as error:  # noqa: BLE001  (raised where it is waited for)
            self._error = error
        finally:
            self._ended.release()

    def result(self) -> T:
        """Wait for the end; what the coroutine returned or raised."""
        with self._ended:
            error, self._error = self._error, None
            if error is None:
                return self._value
            try:
                raise error
            finally:
                del error  # or its traceback, which has this frame, would hold itself

    def cancel(self, home: asyncio.AbstractEventLoop) -> None:
        """Give it CLEAN_UP_S to end, unless it has."""
        if self._ended.locked():
            # A turn later: a task that is cancelled before its first step never comes to its end.
            home.call_soon_threadsafe(lambda: home.call_soon(self._cancel_task))
            self._ended.acquire(timeout=CLEAN_UP_S)

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
    """The form of it that may be awaited on any other loop."""

    @functools.wraps(function)
    async def asynchronous(*args: P.args, **kwargs: P.kwargs) -> T:
        future = asyncio.run_coroutine_threadsafe(function(*args, **kwargs), loop())
        return await asyncio.wrap_future(future)

    return asynchronous
