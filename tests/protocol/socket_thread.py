"""Sockets for a test that has no loop: a thread polls them."""

import threading
from collections.abc import Callable

from distill.protocol.sockets import LINGER_MS, Inbound, Sockets

LOOK_S = 0.05


class SocketThread(Sockets):
    """``on_batch`` is called in a thread of its own, from ``start`` to ``close``."""

    def __init__(self, on_batch: Callable[[list[Inbound]], None]) -> None:
        super().__init__()
        self._on_batch = on_batch
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            if batch := self.poll(LOOK_S):
                self._on_batch(batch)

    def close(self, *, linger_ms: int = LINGER_MS) -> None:
        self._ending.set()
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join(5)
        super().close(linger_ms=linger_ms)
