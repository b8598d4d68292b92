"""One background event loop a process: synchronous code waits for it, asynchronous awaits it."""

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

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
    ended = threading.Event()

    async def run() -> T:
        try:
            return await work
        finally:
            ended.set()

    future = asyncio.run_coroutine_threadsafe(run(), home)
    try:
        return future.result()
    except BaseException:
        if not future.done():
            future.cancel()
            ended.wait(CLEAN_UP_S)
        raise


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
