"""What waits for a worker, and what is served next.

::

    Queue (one a model)
      └─ Lane (one a run): the run that has been given the fewest tokens is next
           ├─ interactive: single questions, before any run's batches
           └─ bulk: Backlogs, one a submission
                └─ Groups of requests that begin alike, each for one worker

What waits in bulk is numbers: a request is made when it is next (``requests.Questions``), so a
million tiny prompts cost the driver little more than their texts.

A worker that has read a passage once answers further questions about it without reading it
again, so requests that share a long beginning go to one worker together (design §3: 2.2-2.5x
where several questions are asked of the same passages). A short instruction that all prompts
share makes no group: it would send them all to one worker. No worker is idle while others have
work that they have not begun: then it takes from their groups.
"""

import itertools
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from distill.supervisor.requests import Pending, Submission, estimate_tokens, text_of

ALIKE_CHARS = 512
"""A beginning shorter than this is an instruction, not a passage."""
ALIKE_SHARE = 0.5
"""Of the longer prompt, what must be the same: where less is, there is less to gain."""

HasRoom = Callable[[Pending], bool]


class Backlog:
    """The requests of one submission that no worker is at, in groups."""

    def __init__(self, submission: Submission, since_s: float) -> None:
        self.submission = submission
        self._since_s = since_s
        groups = grouped([text_of(request) for request in submission.requests])
        self.order = array("I", (number for group in groups for number in group))
        """The numbers of all its requests, group by group."""
        self._sizes = iter(array("I", map(len, groups)))
        self._begun = 0

    def __len__(self) -> int:
        return len(self.order) - self._begun

    def next_group(self) -> "Group":
        """Take out the next group; there must be one."""
        start = self._begun
        self._begun += next(self._sizes)
        return Group(self, start, self._begun)

    def rest(self) -> "Group":
        """All that has not been taken out, as if it were one group."""
        return Group(self, self._begun, len(self.order))

    def pending(self, place: int) -> Pending:
        """The request at this place of the order, made now."""
        request = self.submission.requests[self.order[place]]
        return Pending(request, self.submission, estimate_tokens(request), self._since_s)


class Group:
    """Requests that begin alike: the places from ``next`` to before ``end`` of their backlog."""

    __slots__ = ("_backlog", "_end", "_first", "_next")

    def __init__(self, backlog: Backlog, start: int, end: int) -> None:
        self._backlog = backlog
        self._next, self._end = start, end
        self._first: Pending | None = None

    def __len__(self) -> int:
        return self._end - self._next

    @property
    def first(self) -> Pending:
        """The one that is next."""
        if self._first is None:
            self._first = self._backlog.pending(self._next)
        return self._first

    def pop(self) -> Pending:
        """Take out the one that is next."""
        first, self._first = self.first, None
        self._next += 1
        return first

    def __iter__(self) -> Iterator[Pending]:
        return map(self._backlog.pending, range(self._next, self._end))


@dataclass(slots=True)
class Lane:
    """What one run has waiting. ``served_tokens`` is what it has been given, for fairness."""

    interactive: deque[Pending] = field(default_factory=deque)
    free: deque[Group] = field(default_factory=deque)
    """Groups that are next, before those of the backlogs."""
    bulk: deque[Backlog] = field(default_factory=deque)
    held: dict[str, Group] = field(default_factory=dict)
    """The group that each worker is at."""
    served_tokens: int = 0

    def __bool__(self) -> bool:
        return bool(self.interactive or self.free or self.bulk or self.held)

    def pop_bulk(self, worker: str, has_room: HasRoom) -> Pending | None:
        """The next request of a batch for this worker; None where it has no room for that."""
        group = self.held.get(worker)
        is_held = group is not None
        if group is None:
            group = self._free_group()
        if group is None:
            group, is_held = self._largest_held(), True
        if not has_room(group.first):
            return None
        if not is_held:
            self.free.popleft()
        self.held[worker] = group
        pending = group.pop()
        if not group:
            self.held = {name: each for name, each in self.held.items() if each is not group}
        return pending

    def _free_group(self) -> Group | None:
        """The next group that no worker is at."""
        if not self.free and self.bulk:
            self.free.append(self.bulk[0].next_group())
            if not self.bulk[0]:
                self.bulk.popleft()
        return self.free[0] if self.free else None

    def _largest_held(self) -> Group:
        return max(self.held.values(), key=len)

    def groups(self) -> Iterator[Group]:
        """Every group once, held (by one worker or several) or not."""
        yield from dict.fromkeys(self.held.values())
        yield from self.free
        for backlog in self.bulk:
            yield backlog.rest()


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

    def add(self, submission: Submission, since_s: float) -> None:
        """Put requests that were asked at once at the end of their run's lane."""
        if not submission.requests:
            return
        lane = self._lane(submission.run)
        backlog = Backlog(submission, since_s)
        self._count += len(backlog)
        if submission.interactive:
            lane.interactive.extend(backlog.rest())
        else:
            lane.bulk.append(backlog)

    def put_back(self, pending: Pending) -> None:
        """One whose worker has died: before what has not been tried yet."""
        self._count += 1
        self._lane(pending.submission.run).interactive.append(pending)

    def pop(self, worker: str, has_room: HasRoom) -> Pending | None:
        """The next request for this worker; None if it has no room for it, or nothing waits."""
        if not self._count:
            return None
        lane = self._next_lane()
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
        if not lane:
            del self._lanes[pending.submission.run]
        return pending

    def _next_lane(self) -> Lane:
        lanes = list(self._lanes.values())
        if len(lanes) == 1:
            return lanes[0]
        urgent = [lane for lane in lanes if lane.interactive]
        return min(urgent or lanes, key=lambda each: each.served_tokens)

    def release(self, worker: str) -> None:
        """The worker is gone: others may take what it had not begun."""
        for lane in self._lanes.values():
            group = lane.held.pop(worker, None)
            if group is not None and group not in lane.held.values():
                lane.free.appendleft(group)

    def remove(self, run: str) -> None:
        """Forget the requests of a run."""
        lane = self._lanes.pop(run, None)
        if lane is not None:
            self._count -= len(lane.interactive) + sum(map(len, lane.groups()))

    def __iter__(self) -> Iterator[Pending]:
        """Everything that waits."""
        for lane in self._lanes.values():
            yield from lane.interactive
            for group in lane.groups():
                yield from group

    def clear(self) -> Iterator[Pending]:
        """Take everything out, one by one."""
        while self._lanes:
            run, lane = next(iter(self._lanes.items()))
            waiting = itertools.chain(lane.interactive, *map(iter, lane.groups()))
            self.remove(run)
            yield from waiting


def grouped(texts: Sequence[str]) -> list[list[int]]:
    """The numbers of texts by how they begin; groups in the order of their first text."""
    groups = [[number] for number, text in enumerate(texts) if len(text) < ALIKE_CHARS]
    long = [number for number, text in enumerate(texts) if len(text) >= ALIKE_CHARS]
    last = ""
    for number in sorted(long, key=texts.__getitem__):
        if _alike(last, texts[number]):
            groups[-1].append(number)
        else:
            groups.append([number])
        last = texts[number]
    for group in groups:
        group.sort()
    return sorted(groups)


def _alike(one: str, other: str) -> bool:
    length = max(ALIKE_CHARS, int(ALIKE_SHARE * max(len(one), len(other))))
    return len(one) >= length and one[:length] == other[:length]
