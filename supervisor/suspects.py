"""Requests that were in flight when a worker died: one of them may be what it died of.

::

    deaths  1        tried again beside others, at most a quarter of a worker's window
            2 to 4   tried again alone: nothing else is in flight where it is
            of which 3 alone: poison, it gets an error

A death says nothing yet of any one of several suspects, so it costs them nothing but time: what is
killed by hand, by the kernel or by a scheduler takes innocents with it. Where a worker is killed in
every thirtieth window, one innocent in ten thousand windows would be alone at two deaths; to be
alone at three is no accident. A worker that has answered nothing since its start
gets none while others wait: if it dies again, it is of itself.
"""

from collections import deque
from collections.abc import Iterator, Sequence

from distill.supervisor.requests import ALONE_FROM_DEATHS, Pending
from distill.supervisor.workers import Worker

SUSPECTS_SHARE = 4
SUSPECTS_LEAST = 4


class Suspects:
    """Those of one model that wait to be tried again."""

    def __init__(self) -> None:
        self._shared: deque[Pending] = deque()
        self._alone: deque[Pending] = deque()

    def __len__(self) -> int:
        return len(self._shared) + len(self._alone)

    def add(self, pending: Pending) -> None:
        """One whose worker has died, once more."""
        waiting = self._alone if pending.deaths >= ALONE_FROM_DEATHS else self._shared
        waiting.append(pending)

    def remove(self, run: str) -> None:
        """Forget the requests of a run."""
        self._shared = deque(p for p in self._shared if p.submission.run != run)
        self._alone = deque(p for p in self._alone if p.submission.run != run)

    def clear(self) -> list[Pending]:
        """Take everything out."""
        waiting = [*self._shared, *self._alone]
        self._shared.clear()
        self._alone.clear()
        return waiting

    def place(self, workers: Sequence[Worker]) -> Iterator[tuple[Worker, Pending]]:
        """Who gets what; each is to be in flight before the next is asked for."""
        idle = [worker for worker in workers if not worker.in_flight]
        # One that is ours is started again if it dies; one that has joined is gone for good.
        for worker in sorted(idle, key=lambda each: each.spec is None):
            if self._alone:
                yield worker, self._alone.popleft()
        for worker in workers:
            while self._shared and _may_share(worker, self._shared[0]):
                yield worker, self._shared.popleft()

    def emptied(self, workers: Sequence[Worker]) -> Worker | None:
        """The worker that takes nothing new, so that a suspect can be alone there soon."""
        if not self._alone or any(worker.is_kept_alone for worker in workers):
            return None
        return min(workers, key=lambda each: each.tokens_in_flight, default=None)


def _may_share(worker: Worker, pending: Pending) -> bool:
    suspects = sum(each.deaths > 0 for each in worker.in_flight.values())
    return suspects < suspects_limit(worker.slots) and worker.has_room(pending)


def suspects_limit(slots: int) -> int:
    """How many suspects one worker may have at once: the fewer, the fewer must be alone later."""
    return max(SUSPECTS_LEAST, slots // SUSPECTS_SHARE)
