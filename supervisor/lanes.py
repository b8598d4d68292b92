"""What waits for a worker, and what is served next.

::

    Queue (one a model)
      └─ Lane (one a run): the run that has been given the fewest tokens is next
           ├─ interactive: single questions, before any run's batches
           └─ bulk: Groups of requests that begin alike, each for one worker

A worker that has read a passage once answers further questions about it without reading it
again, so requests that share a long beginning go to one worker together (design §3: 2.2-2.5x
where several questions are asked of the same passages). A short instruction that all prompts
share makes no group: it would send them all to one worker. No worker is idle while others have
work that they have not begun: then it takes from their groups.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from distill.supervisor.requests import Pending, Submission, text_of

ALIKE_CHARS = 512
"""A beginning shorter than this is an instruction, not a passage."""
ALIKE_SHARE = 0.5
"""Of the longer prompt, what must be the same: where less is, there is less to gain."""

HasRoom = Callable[[Pending], bool]


@dataclass(slots=True, eq=False)
class Group:
    """Requests that begin alike."""

    waiting: deque[Pending]


@dataclass(slots=True)
class Lane:
    """What one run has waiting. ``served_tokens`` is what it has been given, for fairness."""

    interactive: deque[Pending] = field(default_factory=deque)
    bulk: deque[Group] = field(default_factory=deque)
    held: dict[str, Group] = field(default_factory=dict)
    """The group that each worker is at."""
    served_tokens: int = 0

    def __bool__(self) -> bool:
        return bool(self.interactive or self.bulk or self.held)

    def pop_bulk(self, worker: str, has_room: HasRoom) -> Pending | None:
        """The next request of a batch for this worker; None where it has no room for that."""
        group = self.held.get(worker)
        if group is None:
            group = self.bulk[0] if self.bulk else self._largest_held()
        if not has_room(group.waiting[0]):
            return None
        if self.bulk and group is self.bulk[0]:
            self.bulk.popleft()
        self.held[worker] = group
        pending = group.waiting.popleft()
        if not group.waiting:
            self.held = {name: each for name, each in self.held.items() if each is not group}
        return pending

    def _largest_held(self) -> Group:
        return max(self.held.values(), key=lambda group: len(group.waiting))

    def groups(self) -> Iterator[Group]:
        """Every group once, held (by one worker or several) or not."""
        yield from dict.fromkeys(self.held.values())
        yield from self.bulk

    def remove(self, ids: set[str]) -> None:
        """Forget these requests."""
        self.interactive = deque(p for p in self.interactive if p.request.id not in ids)
        for group in self.groups():
            group.waiting = deque(p for p in group.waiting if p.request.id not in ids)
        self.bulk = deque(group for group in self.bulk if group.waiting)
        self.held = {name: group for name, group in self.held.items() if group.waiting}


class Queue:
    """Requests for one model."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def _lane(self, run: str) -> Lane:
        """The run's lane; one that had nothing waiting is not owed what it did not ask for."""
        lane = self._lanes.get(run)
        if lane is None:
            least = min((each.served_tokens for each in self._lanes.values()), default=0)
            lane = self._lanes[run] = Lane(served_tokens=least)
        return lane

    def add(self, submission: Submission, pendings: Iterable[Pending]) -> None:
        """Put requests that were asked at once at the end of their run's lane."""
        waiting = list(pendings)
        if not waiting:
            return
        self._count += len(waiting)
        lane = self._lane(submission.run)
        if submission.interactive:
            lane.interactive.extend(waiting)
        else:
            lane.bulk.extend(grouped(waiting))

    def put_back(self, pending: Pending) -> None:
        """One whose worker has died: before what has not been tried yet."""
        self._count += 1
        self._lane(pending.submission.run).interactive.append(pending)

    def pop(self, worker: str, has_room: HasRoom) -> Pending | None:
        """The next request for this worker; None if it has no room for it, or nothing waits."""
        if not self._count:
            return None
        urgent = [lane for lane in self._lanes.values() if lane.interactive]
        lane = min(urgent or self._lanes.values(), key=lambda each: each.served_tokens)
        if lane.interactive:
            if not has_room(lane.interactive[0]):
                return None
            pending = lane.interactive.popleft()
        else:
            taken = lane.pop_bulk(worker, has_room)
            if taken is None:
                return None
            pending = taken
        lane.served_tokens += pending.tokens
        self._count -= 1
        self._sweep(pending.submission.run, lane)
        return pending

    def _sweep(self, run: str, lane: Lane) -> None:
        if not lane:
            del self._lanes[run]

    def release(self, worker: str) -> None:
        """The worker is gone: others may take what it had not begun."""
        for lane in self._lanes.values():
            group = lane.held.pop(worker, None)
            if group is not None and group not in lane.held.values():
                lane.bulk.appendleft(group)

    def remove(self, ids: set[str]) -> None:
        """Forget these requests."""
        for run, lane in list(self._lanes.items()):
            lane.remove(ids)
            self._sweep(run, lane)
        self._count = sum(1 for _ in self)

    def __iter__(self) -> Iterator[Pending]:
        """Everything that waits."""
        for lane in self._lanes.values():
            yield from lane.interactive
            for group in lane.groups():
                yield from group.waiting

    def clear(self) -> list[Pending]:
        """Take everything out."""
        waiting = list(self)
        self._lanes.clear()
        self._count = 0
        return waiting


def grouped(waiting: list[Pending]) -> list[Group]:
    """Requests by how they begin; groups in the order of their first request."""
    order = {pending.request.id: place for place, pending in enumerate(waiting)}
    texts = {pending.request.id: text_of(pending.request) for pending in waiting}
    groups: list[list[Pending]] = []
    for pending in sorted(waiting, key=lambda each: texts[each.request.id]):
        text = texts[pending.request.id]
        if groups and _alike(texts[groups[-1][-1].request.id], text):
            groups[-1].append(pending)
        else:
            groups.append([pending])
    for group in groups:
        group.sort(key=lambda each: order[each.request.id])
    groups.sort(key=lambda group: order[group[0].request.id])
    return [Group(deque(group)) for group in groups]


def _alike(one: str, other: str) -> bool:
    length = max(ALIKE_CHARS, int(ALIKE_SHARE * max(len(one), len(other))))
    return len(one) >= length and one[:length] == other[:length]
