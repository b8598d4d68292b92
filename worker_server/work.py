"""The requests in flight: one task each, by id."""

import asyncio
import functools
from collections.abc import Callable, Iterable

from distill.protocol.worker_link import Failure, Request, Result
from distill.worker_server.engine import Engine
from distill.worker_server.errors import EngineDied
from distill.worker_server.translate import failure


class Work:
    """Runs requests and hands every outcome to ``done``; belongs to one event loop.

    A second request with the same id replaces the first, which is cancelled: the driver only
    sends an id again when it has given up on the earlier attempt.
    """

    def __init__(
        self,
        done: Callable[[Result | Failure], None],
        on_engine_died: Callable[[str], None],
        on_idle: Callable[[], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.engine: Engine | None = None
        self._done = done
        self._on_engine_died = on_engine_died
        self._on_idle = on_idle
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self.failures = 0
        """Requests that were answered with a Failure, cancelled ones left out."""

    @property
    def in_flight(self) -> int:
        """Requests that have no outcome yet; may be read from any thread."""
        return len(self._running)

    def begin(self, requests: Iterable[Request]) -> None:
        """Start answering."""
        for request in requests:
            self.cancel((request.id,))
            task = self.loop.create_task(self._answer(request))
            self._tasks[request.id] = task
            self._running.add(task)
            task.add_done_callback(functools.partial(self._ended, request))

    def cancel(self, ids: Iterable[str]) -> None:
        """Abort these; each is answered with a Failure of kind cancelled. Unknown ids: nothing."""
        for name in ids:
            if task := self._tasks.get(name):
                task.cancel()

    def cancel_all(self) -> None:
        """Abort everything."""
        self.cancel(list(self._tasks))

    async def _answer(self, request: Request) -> None:
        assert self.engine is not None
        try:
            outcome = await self.engine.generate(request)
            self.failures += isinstance(outcome, Failure)
            self._done(outcome)
        except EngineDied as error:
            self._on_engine_died(str(error))
        except Exception as error:  # noqa: BLE001  (a bug of ours costs one answer, not the server)
            self.failures += 1
            detail = f"{type(error).__name__}: {error}"
            self._done(failure(request, "engine", detail))

    def _ended(self, request: Request, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # here, not in the task: it may be cancelled before it began
            self._done(failure(request, "cancelled", "cancelled before it finished"))
        self._running.discard(task)
        if self._tasks.get(request.id) is task:
            del self._tasks[request.id]
        if not self._running:
            self._on_idle()
