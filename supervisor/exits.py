"""Processes of this machine whose end is noticed at once, whoever has started them."""

import asyncio
import os
from collections.abc import Callable


class Watch:
    """Of one process, by pidfd: ``on_exit`` is called once on the loop when it ends.

    Nothing is ever done to the process. All is called on the loop. Raises OSError
    (ProcessLookupError) where there is no such process.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pid: int, on_exit: Callable[[], None]
    ) -> None:
        self.pid = pid
        self._loop = loop
        self._on_exit = on_exit
        self._pidfd = os.pidfd_open(pid)
        loop.add_reader(self._pidfd, self._ended)

    def _ended(self) -> None:
        self.close()
        self._on_exit()

    def close(self) -> None:
        """Watch it no more. May be called again."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
