"""Who gets what waits, and what becomes of it: the queues' end that workers pull at.

The queue stays in the driver and workers pull by credit: each has at most its slots and its token
budget in flight, so a dead worker returns only its window. A result is committed once per request
id; what comes later, or from an earlier attempt, is counted and dropped. What was in flight at a
worker's death is tried again with care (``distill.supervisor.suspects``), and a request that is
poison gets an error instead of one more death.
"""

import itertools
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator

import msgspec

from distill.protocol import worker_link as wire
from distill.protocol.errors import LocalProtocolError
from distill.supervisor.lanes import Queue
from distill.supervisor.requests import (
    ALONE_FROM_DEATHS,
    Deliver,
    Outcome,
    Pending,
    Submission,
    frames,
)
from distill.supervisor.suspects import Suspects
from distill.supervisor.workers import Worker

LOG = logging.getLogger(__name__)
DEATHS_ALONE_LIMIT = 3
DEATHS_LIMIT = ALONE_FROM_DEATHS + DEATHS_ALONE_LIMIT
"""No request sees more: then it was alone at the last of them."""

Finished = tuple[Worker, wire.Result | wire.Failure]
Dealt = tuple[str, Worker, Pending]
"""A request, with the model that it is for and who gets it."""


class Dispatch:
    """The queues, one a model. ``workers`` are all there are, ``send(worker, requests)`` sends."""

    def __init__(
        self,
        workers: Callable[[], Collection[Worker]],
        send: Callable[[Worker, wire.Requests], None],
    ) -> None:
        self._workers = workers
        self._send = send
        self._queues: defaultdict[str, Queue] = defaultdict(Queue)
        self._suspects: defaultdict[str, Suspects] = defaultdict(Suspects)
        self.dropped_results = 0

    def __len__(self) -> int:
        suspects = sum(len(suspects) for suspects in self._suspects.values())
        return suspects + sum(len(queue) for queue in self._queues.values())

    def add(self, submission: Submission) -> None:
        """Queue requests for the model that the submission names."""
        self._queue(submission).add(submission, time.monotonic())

    def _queue(self, submission: Submission) -> Queue:
        return self._queues[_model(submission)]

    def remove(self, run: str) -> None:
        """Forget the requests of a run where they wait."""
        for queue in self._queues.values():
            queue.remove(run)
        for suspects in self._suspects.values():
            suspects.remove(run)

    def deal(self) -> None:
        """Give what waits to those with room, suspects first."""
        workers = [worker for worker in self._workers() if worker.is_ready]
        batches: dict[str, list[wire.Request]] = {worker.name: [] for worker in workers}
        free = list(workers)
        dealt = itertools.chain(self._deal_suspects(free), self._deal_queues(free))
        repeated: list[Pending] = []
        for model, worker, pending in dealt:
            if pending.request.id in worker.in_flight:
                repeated.append(pending)
                continue
            pending.request = worker.stamped(pending.request, model)
            worker.take(pending)
            batches[worker.name].append(pending.request)
        for worker in workers:
            for group in frames(batches[worker.name]):
                self._send_requests(worker, group)
        for pending in repeated:
            why = f"a request named {pending.request.id} is in flight already: use each id once"
            _settle(pending, "bad_request", why)

    def _deal_suspects(self, free: list[Worker]) -> Iterator[Dealt]:
        """Who tries which suspect again; leaves who is being emptied for one out of ``free``."""
        for model, suspects in self._suspects.items():
            others_wait = bool(self._queues[model])
            serving = [worker for worker in free if worker.serves(model)]
            tried = [worker for worker in serving if worker.answered or not others_wait]
            for worker, pending in suspects.place(tried):
                yield model, worker, pending
            if (emptied := suspects.emptied(tried)) is not None:
                free.remove(emptied)

    def _deal_queues(self, free: list[Worker]) -> Iterator[Dealt]:
        """What has not been tried yet, to the one with the fewest tokens in flight first."""
        for model, queue in list(self._queues.items()):
            open_ = [worker for worker in free if worker.serves(model)]
            while open_ and len(queue):
                worker = min(open_, key=lambda each: each.tokens_in_flight)
                pending = queue.pop(worker.name, worker.has_room)
                if pending is None:
                    open_.remove(worker)
                else:
                    yield model, worker, pending
            # Models on the same workers, as adapters are, take turns at what gets free.
            self._queues[model] = self._queues.pop(model)

    def _send_requests(self, worker: Worker, group: list[wire.Request]) -> None:
        try:
            self._send(worker, wire.Requests(tuple(group)))
        except LocalProtocolError as error:
            # One has no wire form, or is too large for a frame: its own to hear, nobody else's.
            if len(group) > 1:
                for request in group:
                    self._send_requests(worker, [request])
            elif pending := worker.give_back(group[0].id):
                _settle(pending, "bad_request", str(error))

    def commit(self, finished: Iterable[Finished]) -> None:
        """Deliver first results, a batch for each caller, and drop the rest.

        What waits is dealt before: no worker is idle while the driver looks at answers, and logs.
        """
        by_caller: dict[Deliver, list[Outcome]] = {}
        for worker, result in finished:
            pending = worker.in_flight.get(result.id)
            if pending is None or pending.request.attempt != result.attempt:
                self.dropped_results += 1
                continue
            worker.give_back(result.id)
            worker.answered += 1
            outcome = Outcome(
                pending.request,
                result,
                None,
                worker.card_of(pending.request),
                worker.producer,
                time.monotonic() - pending.since,
                pending.gpu_s,
            )
            by_caller.setdefault(pending.submission.deliver, []).append(outcome)
        self.deal()
        for deliver, outcomes in by_caller.items():
            _deliver(deliver, outcomes)

    def release(self, worker: Worker, *, has_died: bool) -> None:
        """The worker is gone: what it had goes to others, but for what is poison."""
        for queue in self._queues.values():
            queue.release(worker.name)
        returned = worker.give_back_all()
        died_alone = has_died and len(returned) == 1
        if died_alone:
            worker.died_of_suspect = returned[0].deaths > 0
        for pending in returned:
            pending.deaths += has_died
            pending.deaths_alone += died_alone
            if pending.deaths_alone >= DEATHS_ALONE_LIMIT:
                detail = f"it was in flight at the deaths of {pending.deaths} workers"
                _settle(pending, "poison", f"{detail}, alone at {pending.deaths_alone} of them")
                continue
            attempt = pending.request.attempt + 1
            pending.request = msgspec.structs.replace(pending.request, attempt=attempt)
            if pending.deaths:
                self._suspects[_model(pending.submission)].add(pending)
            else:
                self._queue(pending.submission).put_back(pending)

    def fail_hopeless(self, why: str) -> None:
        """Settle what no worker will ever serve; ``why`` if there is none at all."""
        for model, queue in self._queues.items():
            suspects = self._suspects[model]
            if not queue and not suspects:
                continue
            if not any(each.may_serve(model) for each in self._workers()):
                for pending in itertools.chain(suspects.clear(), queue.clear()):
                    _settle(pending, "lost", f"no worker is left{why or f' that serves {model}'}")


def _model(submission: Submission) -> str:
    assert submission.model is not None
    return submission.model


def _settle(pending: Pending, kind: str, detail: str) -> None:
    """No worker has answered it, and none will."""
    request = pending.request
    failure = wire.Failure(request.id, request.attempt, "engine", detail)
    waited_s = time.monotonic() - pending.since
    outcome = Outcome(request, failure, kind, None, None, waited_s, pending.gpu_s)
    _deliver(pending.submission.deliver, [outcome])


def _deliver(deliver: Deliver, outcomes: list[Outcome]) -> None:
    """What fails in one caller must not keep the others from their answers."""
    try:
        deliver(outcomes)
    except Exception:
        LOG.exception("distill: answers could not be delivered")
