"""Daemon threads for synchronous calls: an idle one takes the next, else another is started.

Starting a thread for each call would cost it as much as the whole way from the jail and back.
There is no bound: callers bound how many calls run at once. The threads are daemons, so one that
hangs in a request never holds up the end of the process.
"""

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from distill.caller import WAITER

IDLE_S = 2.0
"""How long a thread waits for another call before it ends."""

Call = Callable[[], Callable[[], object]]
"""Runs in the thread; what it returns runs there too, once the thread can be had again."""


class CallThreads:
    """The threads of one driver, or of who has none."""

    def __init__(self) -> None:
        self._idle: list[SimpleQueue[Call]] = []
        self._lock = threading.Lock()

    def run(self, call: Call) -> None:
        """Have a thread run it. ``call`` must not raise."""
        with self._lock:
            lane = self._idle.pop() if self._idle else None
        if lane is None:
            lane = SimpleQueue()
            threading.Thread(
                target=self._serve, args=(lane,), name="distill-handler", daemon=True
            ).start()
        lane.put(call)

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """What the function returns; it runs in a thread, with this task's context."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()
        context.run(WAITER.set, future)

        def settle(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            elif isinstance(error, StopIteration) or not isinstance(error, Exception):
                # Neither can cross a task: SystemExit would end the loop for every run.
                future.set_exception(RuntimeError(f"a host function raised {error!r}"))
            else:
                future.set_exception(error)

        def work() -> Callable[[], object]:
            outcome: tuple[Any, BaseException | None]
            try:
                outcome = (context.run(function, *args), None)
            except BaseException as error:  # noqa: BLE001  (the awaiting task raises it)
                outcome = (None, error)
            return functools.partial(loop.call_soon_threadsafe, settle, *outcome)

        self.run(work)
        return await future

    def _serve(self, lane: "SimpleQueue[Call]") -> None:
        while True:
            try:
                call = lane.get(timeout=IDLE_S)
            except Empty:
                with self._lock:
                    if lane in self._idle:
                        self._idle.remove(lane)
                        return
                continue  # a call is on its way
            finish = call()
            with self._lock:
                self._idle.append(lane)
            finish()
            del call, finish  # they hold the call's arguments and its value
