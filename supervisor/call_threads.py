"""Daemon threads for synchronous calls: an idle one takes the next, else another is started.

Starting a thread for each call would cost it as much as the whole way from the jail and back.
There is no bound: callers bound how many calls run at once. The threads are daemons, so one that
hangs in a request never holds up the end of the process.
"""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

IDLE_S = 2.0
"""How long a thread waits for another call before it ends."""

Call = Callable[[], Callable[[], object]]
"""Runs in the thread; what it returns runs there too, once the thread can be had again."""


class CallThreads:
    """The threads of one driver."""

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
