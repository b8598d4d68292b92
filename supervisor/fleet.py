"""The worker servers and the queue before them.

The queue stays here and workers pull by credit: each has at most its slots and its token
budget in flight, so a dead worker returns only its window. A result is committed once per
request id; what comes later, or from an earlier attempt, is counted and dropped. A request
that was in flight at two deaths is poison: it gets an error instead of a third death.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from distill.errors import DistillError, MachineError, ModelError
from distill.protocol import PROTOCOL_VERSION
from distill.protocol import worker_link as wire
from distill.protocol.codec import DRIVER_TO_WORKER
from distill.protocol.conversation import Conversation
from distill.protocol.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from distill.protocol.launcher_link import Exited, FromLauncher, Kill, NotStarted, Spawn
from distill.protocol.message import LogRecords, Message, Shutdown, Welcome
from distill.protocol.sockets import Inbound
from distill.supervisor.driver import Driver
from distill.supervisor.requests import Deliver, Outcome, Pending, estimate_tokens, frames
from distill.supervisor.workers import Worker, WorkerSpec
from distill.traces import records

HEARTBEAT_S = 1.0
SILENCE_LIMIT_S = 6.0
"""A ready worker that is silent this long is frozen (design §3)."""
DEATHS_LIMIT = 2
RESTARTS_LIMIT = 3
HEALTHY_S = 600.0
"""A worker that has served this long may be restarted anew."""
LOADING_SILENCE_LIMIT_S = 60.0
STEP_LIMIT_S = 30.0
STEP_FACTOR = 5
"""No progress for this long, and for this many times the slowest step seen: a hang."""
BACKOFF_S = (0.5, 2.0, 8.0)


class Fleet:
    """Starts worker servers and gives them requests. Lives on the driver's loop."""

    def __init__(self, driver: Driver, specs: Sequence[WorkerSpec]) -> None:
        self._driver = driver
        self._queue: deque[Pending] = deque()
        self._workers = {
            spec.name: Worker(spec, Conversation(wire.TRANSITIONS, peer=spec.name))
            for spec in specs
        }
        self._peers: dict[bytes, Worker] = {}
        self._changed = asyncio.Event()
        self.dropped_results = 0
        self._closing = False
        driver.on_zone("workers", self._on_batch)
        driver.on_lost(self._on_driver_lost)
        for worker in self._workers.values():
            self._start(worker)
        self._watch = driver.loop.create_task(self._watch_silence())

    # -- what callers see

    async def ready(self) -> wire.ModelCard:
        """Wait until a worker can serve; its model. Raises ModelError, MachineError: none will."""
        while True:
            for worker in self._workers.values():
                if worker.is_ready and worker.card is not None:
                    return worker.card
            if self._failed():
                raise self._failure()
            self._changed.clear()
            await self._changed.wait()

    @property
    def failure(self) -> DistillError | None:
        """Why no worker is left and none will come; None while there is hope."""
        return self._failure() if self._failed() else None

    def workers(self) -> Iterable[Worker]:
        """The fleet's workers, whatever their state."""
        return self._workers.values()

    def submit(self, requests: Sequence[wire.Request], deliver: Deliver) -> None:
        """Queue requests; ``deliver`` gets every outcome once, in batches as they arrive."""
        now_s = time.monotonic()
        for request in requests:
            self._queue.append(Pending(request, deliver, estimate_tokens(request), now_s))
        if self._failed():
            self._fail_all()
        self._dispatch()

    def cancel(self, ids: set[str]) -> None:
        """Forget these requests; their answers, if any come, are dropped."""
        self._queue = deque(p for p in self._queue if p.request.id not in ids)
        for worker in self._workers.values():
            gone = tuple(key for key in worker.in_flight if key in ids)
            for key in gone:
                worker.give_back(key)
            if gone and worker.conversation.allows(wire.Cancel):
                self._send(worker, wire.Cancel(gone))
        self._dispatch()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    async def close(self, deadline_s: float = 3.0) -> None:
        """Ask the workers to end, and wait a little; the launcher sees to the rest."""
        self._closing = True
        self._watch.cancel()
        for worker in self._workers.values():
            if worker.conversation.allows(Shutdown):
                self._send(worker, Shutdown())
            elif worker.conversation.state != "gone":
                self._driver.children.send(Kill(worker.spec.name))
        deadline = time.monotonic() + deadline_s
        while any(w.conversation.state != "ended" for w in self._workers.values()):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.02)

    # -- processes

    def _start(self, worker: Worker) -> None:
        name = worker.spec.name
        self._driver.on_child(name, lambda message: self._on_child(worker, message))
        output = str(self._driver.run_directory / f"{name}.log")
        self._driver.children.send(Spawn(name, worker.spec.argv, worker.spec.env, output))

    def _on_child(self, worker: Worker, message: FromLauncher) -> None:
        if not isinstance(message, Exited | NotStarted):
            return
        was_ready = worker.conversation.state in ("ready", "draining") or (
            worker.card is not None and worker.conversation.state == "gone"
        )
        if isinstance(message, Exited):
            why = f"ended with status {message.status}"
        else:
            why = f"could not be started: {message.detail}"
        returned = worker.give_back_all()
        self._peers.pop(worker.epoch.encode(), None)
        worker.conversation = Conversation(wire.TRANSITIONS, peer=worker.spec.name)
        worker.conversation.state = "ended"
        if self._closing:
            return
        if time.monotonic() - worker.ready_s > HEALTHY_S:
            worker.restarts = 0
        if was_ready and worker.restarts < RESTARTS_LIMIT:
            delay_s = BACKOFF_S[min(worker.restarts, len(BACKOFF_S) - 1)]
            worker.restarts += 1
            worker.failure = None
            self._driver.event("worker_restarting", worker.producer, why=why, delay_s=delay_s)
            self._driver.loop.call_later(delay_s, self._restart, worker)
        elif worker.failure is None:
            tail = _tail(self._driver.run_directory / f"{worker.spec.name}.log")
            worker.failure = wire.WorkerFailed("engine", f"the worker server {why}. {tail}".strip())
        self._return(returned)
        self._changed.set()
        if self._failed():
            self._fail_all()

    def _restart(self, worker: Worker) -> None:
        if self._closing:
            return
        worker.conversation = Conversation(wire.TRANSITIONS, peer=worker.spec.name)
        worker.failure = None
        self._start(worker)

    def _return(self, returned: list[Pending]) -> None:
        """Requests of a dead worker go back to the front; those of two deaths are poison."""
        for pending in reversed(returned):
            pending.deaths += 1
            if pending.deaths >= DEATHS_LIMIT:
                self._settle(pending, None, "poison", "it was in flight at two worker deaths")
            else:
                attempt = pending.request.attempt + 1
                pending.request = msgspec.structs.replace(pending.request, attempt=attempt)
                self._queue.appendleft(pending)
        self._dispatch()

    def _failed(self) -> bool:
        return all(
            worker.conversation.state == "ended" and worker.failure is not None
            for worker in self._workers.values()
        )

    def _failure(self) -> DistillError:
        causes = [w.failure for w in self._workers.values() if w.failure is not None]
        if not causes:
            return ModelError("there is no worker")
        kind = MachineError if causes[0].kind in ("device", "memory") else ModelError
        return kind(causes[0].detail)

    def _fail_all(self) -> None:
        queued, self._queue = list(self._queue), deque()
        for pending in queued:
            self._settle(pending, None, "lost", f"no worker is left: {self._failure()}")

    def _on_driver_lost(self) -> None:
        for worker in self._workers.values():
            worker.failure = wire.WorkerFailed(
                "engine", "the launcher died, and the workers with it"
            )
            worker.conversation.state = "ended"
            self._queue.extend(worker.give_back_all())
        self._changed.set()
        self._fail_all()

    async def _watch_silence(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            for worker in self._workers.values():
                if why := _hang(worker, time.monotonic() - worker.heard_s):
                    self._driver.event("worker_frozen", worker.producer, why=why)
                    worker.conversation.state = "gone"
                    self._driver.children.send(Kill(worker.spec.name))

    # -- messages

    def _send(self, worker: Worker, message: Message) -> None:
        payload = DRIVER_TO_WORKER.encode(message)  # type: ignore[arg-type]
        worker.conversation.sent(message)
        self._driver.send("workers", worker.epoch, payload)

    def _on_batch(self, batch: list[Inbound]) -> None:
        finished: list[tuple[Worker, wire.Result | wire.Failure]] = []
        for inbound in batch:
            worker = self._peers.get(inbound.peer) or self._greeted_by(inbound)
            if worker is None:
                continue
            try:
                self._on_inbound(worker, inbound, finished)
            except ProtocolError as error:
                self._driver.event("worker_protocol_error", worker.producer, why=str(error))
                worker.conversation.state = "gone"
                self._driver.children.send(Kill(worker.spec.name))
        self._commit(finished)
        self._dispatch()

    def _greeted_by(self, inbound: Inbound) -> Worker | None:
        """The worker whose new incarnation says Hello here; None for a stranger.

        A peer's identity on the socket is its epoch, so an incarnation never meets the
        messages of another.
        """
        try:
            hello = DRIVER_TO_WORKER.decode(inbound.payload)
        except RemoteProtocolError:
            hello = None
        worker = self._workers.get(hello.worker) if isinstance(hello, wire.WorkerHello) else None
        if worker is None or worker.conversation.state != "new":
            self._driver.event("unknown_worker", self._driver.producer, peer=repr(inbound.peer))
            return None
        self._peers[inbound.peer] = worker
        return worker

    def _on_inbound(
        self,
        worker: Worker,
        inbound: Inbound,
        finished: list[tuple[Worker, wire.Result | wire.Failure]],
    ) -> None:
        if inbound.event == "unreachable":
            return
        if inbound.event == "malformed":
            raise RemoteProtocolError("a message of several frames", peer=worker.spec.name)
        if worker.conversation.state in ("ended", "gone"):
            return
        message = DRIVER_TO_WORKER.decode(inbound.payload, peer=worker.spec.name)
        worker.conversation.received(message)
        worker.heard_s = time.monotonic()
        match message:
            case wire.WorkerHello():
                self._on_hello(worker, message)
            case wire.WorkerReady():
                self._on_ready(worker, message)
            case wire.WorkerFailed():
                worker.failure = message
                self._driver.event(
                    "worker_failed", worker.producer, kind=message.kind, why=message.detail
                )
            case wire.Results():
                finished.extend((worker, result) for result in message.results)
            case wire.Heartbeat():
                worker.note_step(message)
            case LogRecords():
                self._driver.shipped(worker.producer, message.records)

    def _on_hello(self, worker: Worker, hello: wire.WorkerHello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            raise RemoteProtocolError(
                f"speaks protocol {hello.protocol}, this is {PROTOCOL_VERSION}", peer=hello.worker
            )
        if self._peers.get(hello.epoch.encode()) is not worker:
            raise RemoteProtocolError("its identity is not its epoch", peer=hello.worker)
        worker.epoch = hello.epoch
        worker.producer = records.Producer("worker_server", hello.worker, hello.pid)
        self._driver.event("worker_connected", worker.producer, epoch=hello.epoch)
        self._send(worker, Welcome(PROTOCOL_VERSION, HEARTBEAT_S))

    def _on_ready(self, worker: Worker, ready: wire.WorkerReady) -> None:
        worker.card, worker.slots = ready.card, ready.slots
        worker.ready_s = time.monotonic()
        worker.token_budget = ready.token_budget
        self._driver.event(
            "worker_ready",
            worker.producer,
            model=ready.card.model,
            device=ready.card.device,
            slots=ready.slots,
            load_s=ready.load_s,
        )
        self._changed.set()

    # -- dispatch

    def _dispatch(self) -> None:
        """Give the queue's head to the worker with the fewest tokens in flight."""
        batches: dict[str, list[wire.Request]] = {}
        while self._queue:
            pending = self._queue[0]
            ready = [w for w in self._workers.values() if w.is_ready and w.has_room(pending)]
            if not ready:
                break
            worker = min(ready, key=lambda w: w.tokens_in_flight)
            worker.take(self._queue.popleft())
            batches.setdefault(worker.spec.name, []).append(pending.request)
        for name, requests in batches.items():
            for group in frames(requests):
                self._send_requests(self._workers[name], group)

    def _send_requests(self, worker: Worker, group: list[wire.Request]) -> None:
        try:
            self._send(worker, wire.Requests(tuple(group)))
        except LocalProtocolError as error:
            # They have no wire form, or are too large for a frame: theirs to hear, nobody's else.
            for request in group:
                if pending := worker.give_back(request.id):
                    self._settle(pending, None, "bad_request", str(error))

    def _commit(self, finished: list[tuple[Worker, wire.Result | wire.Failure]]) -> None:
        """Deliver first results, a batch for each caller, and drop the rest."""
        by_caller: dict[Deliver, list[Outcome]] = {}
        for worker, result in finished:
            pending = worker.in_flight.get(result.id)
            if pending is None or pending.request.attempt != result.attempt:
                self.dropped_results += 1
                continue
            worker.give_back(result.id)
            outcome = Outcome(
                pending.request,
                result,
                None,
                worker.card,
                worker.producer,
                time.monotonic() - pending.since,
            )
            by_caller.setdefault(pending.deliver, []).append(outcome)
        for deliver, outcomes in by_caller.items():
            deliver(outcomes)

    def _settle(self, pending: Pending, worker: Worker | None, kind: str, detail: str) -> None:
        request = pending.request
        failure = wire.Failure(request.id, request.attempt, "engine", detail)
        pending.deliver(
            [
                Outcome(
                    request,
                    failure,
                    kind,
                    worker.card if worker else None,
                    worker.producer if worker else None,
                    time.monotonic() - pending.since,
                )
            ]
        )


def _hang(worker: Worker, silent_s: float) -> str:
    """Why a worker is taken for frozen; "" if it is not."""
    state = worker.conversation.state
    if state == "ready" and silent_s > SILENCE_LIMIT_S:
        return f"silent for {silent_s:.0f} s"
    if state == "loading" and silent_s > LOADING_SILENCE_LIMIT_S:
        return f"silent for {silent_s:.0f} s while loading"
    limit_s = max(STEP_LIMIT_S, STEP_FACTOR * worker.slowest_step_s)
    if worker.in_flight and worker.step_age_s > limit_s:
        return f"no step for {worker.step_age_s:.0f} s with {len(worker.in_flight)} in flight"
    return ""


def _tail(path: Path) -> str:
    """The last lines of a child's output, for a message about its death."""
    try:
        text = path.read_bytes()[-1500:].decode("utf-8", "replace")
    except OSError:
        return ""
    return "Its last output:\n" + text if text.strip() else ""
