"""The worker servers: started here or joined by themselves, watched, and given requests.

A worker that this process has not started may join at any time, and leave: it says Hello under a
name that nobody has, and is refused if it is not what it should be. What it is given is the
business of ``distill.supervisor.dispatch``.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Iterable, Sequence

from distill.errors import DistillError, MachineError, ModelError
from distill.protocol import PROTOCOL_VERSION
from distill.protocol import worker_link as wire
from distill.protocol.client_link import WorkerStatus
from distill.protocol.codec import DRIVER_TO_WORKER
from distill.protocol.conversation import Conversation
from distill.protocol.errors import ProtocolError, RemoteProtocolError
from distill.protocol.launcher_link import Exited, FromLauncher, Kill, NotStarted, Spawn, Started
from distill.protocol.message import LogRecords, Message, Shutdown, Welcome
from distill.protocol.sockets import Inbound
from distill.supervisor.adapters import Adapters
from distill.supervisor.children import last_words
from distill.supervisor.dispatch import Dispatch, Finished
from distill.supervisor.driver import REMOTE_WORKERS, Driver
from distill.supervisor.exits import Watch
from distill.supervisor.requests import Submission
from distill.supervisor.worker_status import status_of
from distill.supervisor.workers import TOLD_TO_LEAVE, Role, Starter, Worker, WorkerSpec, hang
from distill.traces import records

LOG = logging.getLogger(__name__)
HEARTBEAT_S = 1.0
SILENCE_LOOK_S = 0.25
LAST_WORDS_S = 0.005
RESTARTS_LIMIT = 3
HEALTHY_S = 600.0
"""A worker that has served this long, or has answered anything, may be restarted anew."""
BACKOFF_S = (0.5, 2.0, 8.0)
AWAY_LIMIT_S = 60.0
"""A worker on another machine that was lost may come back this long; what waits for it waits."""
LOOK_AFTER_S = 0.05
"""ZeroMQ tells that a connection has ended a little before it knows whose it was."""
KILLED_S = 1.0
"""So soon the launcher says that a killed worker has ended, unless it is gone itself."""
WORKERS_LIMIT = 4096
"""Of those that join: a mistake in a loop must not fill the memory."""


class Fleet:
    """Starts worker servers, takes in others, gives them requests. Lives on the driver's loop.

    ``awaits_others``: without any worker there is still hope, that one joins.
    """

    def __init__(
        self, driver: Driver, specs: Sequence[WorkerSpec], *, awaits_others: bool = False
    ) -> None:
        self._driver = driver
        self._workers = {spec.name: _worker(spec.name, spec) for spec in specs}
        self._awaits_others = awaits_others
        self._peers: dict[tuple[str, bytes], Worker] = {}
        self._changed = asyncio.Event()
        self._lost: list[tuple[Worker, str]] = []
        """Workers that are gone; what they have said is committed first."""
        self._dispatch = Dispatch(self._workers.values, self._send)
        self.adapters = Adapters(self._workers.values, self._send, self._event, self._settle)
        self._closing = False
        driver.on_zone("workers", self._on_batch)
        driver.on_zone(REMOTE_WORKERS, self._on_batch)
        driver.on_lost(self._on_driver_lost)
        for worker in self._workers.values():
            self._start(worker)
        self._watch = driver.loop.create_task(self._watch_silence())

    # -- what callers see

    async def ready(self, role: Role = "worker") -> wire.ModelCard:
        """Wait until one can serve; its model. Raises ModelError, MachineError: none will."""
        while True:
            for worker in self._of(role):
                if worker.is_ready and worker.card is not None:
                    return worker.card
            if self._failed(role):
                raise self._failure(role)
            self._changed.clear()
            await self._changed.wait()

    @property
    def failure(self) -> DistillError | None:
        """Why no worker is left and none will come; None while there is hope."""
        return self._failure() if self._failed() else None

    def _of(self, role: Role) -> list[Worker]:
        return [worker for worker in list(self._workers.values()) if worker.role == role]

    def status(self) -> tuple[WorkerStatus, ...]:
        """How each of them is now."""
        now_s = time.monotonic()
        return tuple(status_of(worker, now_s) for worker in self._workers.values())

    def workers(self) -> Iterable[Worker]:
        """The fleet's workers, whatever their state."""
        return self._workers.values()

    def models(self) -> list[str]:
        """The models of the workers that are up, and their adapters."""
        named = [worker.model for worker in self._workers.values() if worker.is_ready]
        adapters = [served.name for served in self.adapters.served() if served.model in named]
        return list(dict.fromkeys(model for model in (*named, *adapters) if model is not None))

    def card(self, model: str) -> wire.ModelCard | None:
        """What answers for this model, or the adapter of this name, now."""
        for worker in self._workers.values():
            if worker.serves(model) and worker.card is not None:
                version = worker.serving.get(model, 0)
                return worker.adapter_cards.get((model, version), worker.card)
        return None

    def _event(self, event: str, **detail: object) -> None:
        self._driver.event(event, self._driver.producer, **detail)

    def submit(self, submission: Submission) -> None:
        """Queue requests for the model that is named, which some worker serves, or has served."""
        self._dispatch.add(submission)
        self._settle()

    def cancel(self, run: str) -> None:
        """Forget the requests of a run; their answers, if any come, are dropped."""
        self._dispatch.remove(run)
        for worker in self._workers.values():
            in_flight = worker.in_flight.items()
            gone = tuple(key for key, each in in_flight if each.submission.run == run)
            for key in gone:
                worker.give_back(key)
            if gone and worker.conversation.allows(wire.Cancel):
                self._send(worker, wire.Cancel(gone))
        self._dispatch.deal()

    @property
    def waiting(self) -> int:
        """Requests in the queues."""
        return len(self._dispatch)

    @property
    def dropped_results(self) -> int:
        """Results that came twice, too late, or from nowhere."""
        return self._dispatch.dropped_results

    async def close(self, deadline_s: float = 3.0) -> None:
        """Ask the workers to end, and wait a little; then those of this machine are killed.

        Their names are free afterwards.
        """
        self._closing = True
        self._watch.cancel()
        for worker in self._workers.values():
            if worker.conversation.allows(Shutdown):
                self._send(worker, Shutdown())
            elif worker.spec is not None and worker.conversation.state != "gone":
                self._starter(worker.spec).send(Kill(worker.name))
        ours = [worker for worker in self._workers.values() if worker.spec is not None]
        for late in await _not_ended(ours, deadline_s):
            assert late.spec is not None
            self._starter(late.spec).send(Kill(late.name))
        await _not_ended(ours, KILLED_S)
        for worker in self._workers.values():
            if worker.watch is not None:
                worker.watch.close()
            self._driver.forget(worker.name)

    # -- processes

    def _starter(self, spec: WorkerSpec) -> Starter:
        return self._driver.children if spec.starter is None else spec.starter

    def _start(self, worker: Worker) -> None:
        assert worker.spec is not None
        # Not heard of until it is started: on a cluster it may have to wait.
        worker.heard_s, worker.pid, worker.has_exited = math.inf, 0, False
        name = worker.name
        self._driver.on_child(name, lambda message: self._on_child(worker, message))
        output = str(self._driver.run_directory / f"{name}.log")
        spawn = Spawn(name, worker.spec.argv, worker.spec.env, output)
        self._starter(worker.spec).send(spawn)

    def _on_child(self, worker: Worker, message: FromLauncher) -> None:
        if isinstance(message, Started):
            worker.heard_s = time.monotonic()
            self._watch_process(worker, message.pid)
            if (early := worker.early) is not None:
                worker.early = None
                self._on_batch([early])
        if not isinstance(message, Exited | NotStarted):
            return
        may_try_again = worker.card is not None or worker.is_lost_elsewhere(message)
        if isinstance(message, Exited):
            why = f"ended with status {message.status}"
        else:
            why = f"could not be started: {message.detail}"
        said_goodbye = worker.conversation.state == "gone" and worker.is_leaving
        self._end(worker)
        if self._closing:
            return
        if worker.answered or time.monotonic() - worker.ready_s > HEALTHY_S:
            worker.restarts = 0
        if said_goodbye:
            worker.failure = wire.WorkerFailed("engine", TOLD_TO_LEAVE)
        elif may_try_again and worker.restarts < RESTARTS_LIMIT:
            delay_s = BACKOFF_S[min(worker.restarts, len(BACKOFF_S) - 1)]
            worker.restarts += not worker.died_of_suspect
            worker.meter.restarted(worker.failure.detail if worker.failure is not None else why)
            worker.failure = None
            self._driver.event("worker_restarting", worker.producer, why=why, delay_s=delay_s)
            self._driver.loop.call_later(delay_s, self._restart, worker)
        elif worker.failure is None:
            words = last_words(self._driver.run_directory / f"{worker.name}.log")
            worker.failure = wire.WorkerFailed(
                "engine", f"the worker server {why}. {words}".strip()
            )
        self._settle()

    def _watch_process(self, worker: Worker, pid: int) -> None:
        """Notice its end at once; one that can't be watched is noticed by its silence."""

        def on_exit() -> None:
            # What it has said last is on its way, and heard first.
            self._driver.loop.call_later(LAST_WORDS_S, self._on_exit, worker, pid)

        worker.pid = pid
        if worker.is_elsewhere:
            return  # the number is of another machine
        with contextlib.suppress(OSError):
            worker.watch = Watch(self._driver.loop, pid, on_exit)

    def _on_exit(self, worker: Worker, pid: int) -> None:
        if worker.pid == pid and worker.conversation.state != "ended":
            worker.has_exited = True
            self._lost.append((worker, "its process has ended"))
            self._give_back_lost()

    def _end(self, worker: Worker) -> None:
        """This incarnation is over; what it had in flight goes back."""
        if worker.watch is not None:
            worker.watch.close()
        worker.watch = worker.early = None
        self._peers.pop((worker.zone, worker.epoch.encode()), None)
        worker.conversation = Conversation(wire.TRANSITIONS, peer=worker.name)
        worker.conversation.state = "ended"
        self._release(worker, "it has ended")
        worker.meter.ended()
        worker.is_leaving = False
        worker.step_age_s = worker.slowest_step_s = 0.0

    def _release(self, worker: Worker, why: str) -> None:
        """What it had goes to others now, not when all of its processes are gone."""
        if count := len(worker.in_flight):
            self._driver.event("worker_lost", worker.producer, why=why, requests=count)
        self.adapters.lost(worker)
        self._dispatch.release(worker, has_died=not worker.is_leaving)

    def _give_back_lost(self) -> None:
        """Those that are gone have nothing in flight any more; who had joined is forgotten.

        Some of them may come back.
        """
        if not self._lost:
            return
        while self._lost:
            worker, why = self._lost.pop()
            if self._workers.get(worker.name) is not worker:
                continue
            self._release(worker, why)
            if worker.spec is None:
                self._driver.event("worker_left", worker.producer, why=why, host=worker.host)
                self._end(worker)
                if not worker.away_until_s:
                    del self._workers[worker.name]
                    self._driver.forget(worker.name)
        self._settle()

    def _condemn(self, worker: Worker, why: str) -> None:
        """It is frozen, or breaks rules: kill it where it is ours, else hear it no more."""
        worker.conversation.state = "gone"
        if worker.spec is not None:
            worker.failure = worker.failure or wire.WorkerFailed("engine", why)
            worker.heard_s = time.monotonic()  # it has ENDING_LIMIT_S to end
            self._starter(worker.spec).send(Kill(worker.name))
        else:
            self._refuse(worker.zone, worker.epoch, why)
        self._lost.append((worker, why))

    def _lose(self, worker: Worker, why: str) -> None:
        """Its connection is gone, or as good as gone: it may come back as another incarnation.

        One that was placed on a cluster is started again there.
        """
        if worker.conversation.state in ("gone", "ended"):
            return
        worker.conversation.state = "gone"
        if worker.spec is not None:
            worker.heard_s = time.monotonic()
            self._starter(worker.spec).send(Kill(worker.name))
        else:
            worker.away_until_s = time.monotonic() + AWAY_LIMIT_S
            self._refuse(worker.zone, worker.epoch, why, again=True)
        self._lost.append((worker, why))

    def _look_for_lost(self) -> None:
        """A connection has ended, and nobody says whose: who can't be reached is an event."""
        for worker in self._workers.values():
            if worker.zone == REMOTE_WORKERS and worker.conversation.allows(wire.Cancel):
                self._send(worker, wire.Cancel(()))

    def _forget_away(self) -> None:
        """Those that were lost and have not come back."""
        for worker in list(self._workers.values()):
            if 0 < worker.away_until_s < time.monotonic():
                del self._workers[worker.name]
                self._driver.forget(worker.name)
                self._settle()

    def _restart(self, worker: Worker) -> None:
        if self._closing or self._driver.lost.is_set():
            return
        worker.ready_s, worker.answered, worker.died_of_suspect = math.inf, 0, False
        worker.conversation = Conversation(wire.TRANSITIONS, peer=worker.name)
        worker.failure = None
        self._start(worker)

    def _settle(self) -> None:
        """Who is there has changed, or what waits: nothing waits in vain, or for nothing."""
        self._changed.set()
        self._dispatch.fail_hopeless(f": {self._failure()}" if self._failed() else "")
        self._dispatch.deal()

    def _failed(self, role: Role = "worker") -> bool:
        known = self._of(role)
        awaited = self._awaits_others and role == "worker" and not known
        return not awaited and all(worker.has_failed for worker in known)

    def _failure(self, role: Role = "worker") -> DistillError:
        causes = [worker.failure for worker in self._of(role) if worker.failure is not None]
        if not causes:
            return ModelError("there is no worker")
        kind = MachineError if causes[0].kind in ("device", "memory") else ModelError
        return kind(causes[0].detail)

    def _on_driver_lost(self) -> None:
        for worker in self._workers.values():
            worker.failure = wire.WorkerFailed(
                "engine", "the launcher died, and the workers with it"
            )
            self._end(worker)
        self._settle()

    async def _watch_silence(self) -> None:
        looked_s = time.monotonic()
        while True:
            await asyncio.sleep(SILENCE_LOOK_S)
            now_s = time.monotonic()
            late_s, looked_s = now_s - looked_s - SILENCE_LOOK_S, now_s
            for worker in list(self._workers.values()):
                if late_s > HEARTBEAT_S:  # this process was stopped, or busy: it was not they
                    worker.heard_s = min(now_s, worker.heard_s + late_s)
                if why := hang(worker, now_s - worker.heard_s):
                    self._driver.event("worker_frozen", worker.producer, why=why)
                    is_cut = worker.zone == REMOTE_WORKERS and why.startswith("silent")
                    (self._lose if is_cut else self._condemn)(worker, why)
            self._forget_away()
            self._give_back_lost()

    # -- messages

    def _send(self, worker: Worker, message: Message) -> None:
        payload = DRIVER_TO_WORKER.encode(message)  # type: ignore[arg-type]
        worker.conversation.sent(message)
        self._driver.send(worker.zone, worker.epoch, payload)

    def _on_batch(self, batch: list[Inbound]) -> None:
        finished: list[Finished] = []
        try:
            for inbound in batch:
                self._hear(inbound, finished)
        finally:  # a result that was read is in no socket any more: it is answered, or lost
            self._dispatch.commit(finished)
            self._give_back_lost()
            self._dispatch.deal()

    def _hear(self, inbound: Inbound, finished: list[Finished]) -> None:
        """One message; what is wrong with it is its sender's fault, and nobody else's loss."""
        if inbound.event == "lost":
            self._driver.loop.call_later(LOOK_AFTER_S, self._look_for_lost)
        if inbound.event in ("lost", "joined"):
            return
        worker = self._peers.get((inbound.zone, inbound.peer))
        try:
            worker = worker or self._greeted_by(inbound)
            if worker is not None:
                self._on_inbound(worker, inbound, finished)
        except ProtocolError as error:
            self._blame(worker, "worker_protocol_error", str(error))
        except Exception as error:
            # A bug of ours, which this worker has found: without it the others are served.
            LOG.exception("distill: a message of %r could not be taken in", inbound.peer)
            why = f"its message could not be taken in: {type(error).__name__}: {error}"
            self._blame(worker, "worker_message_failed", why)

    def _blame(self, worker: Worker | None, event: str, why: str) -> None:
        """What it has sent is wrong; a stranger stays one."""
        producer = self._driver.producer if worker is None else worker.producer
        self._driver.event(event, producer, why=why)
        if worker is not None:
            self._condemn(worker, why)

    def _greeted_by(self, inbound: Inbound) -> Worker | None:
        """The worker whose new incarnation says Hello here; None for a stranger.

        A peer's identity on the socket is its epoch, so an incarnation never meets the
        messages of another.
        """
        try:
            hello = DRIVER_TO_WORKER.decode(inbound.payload)
        except RemoteProtocolError:
            hello = None
        if not isinstance(hello, wire.WorkerHello):
            self._driver.event("unknown_worker", self._driver.producer, peer=repr(inbound.peer))
            return None
        epoch = inbound.peer.decode("utf-8", "replace")
        pid = inbound.pid or hello.pid
        worker = self._workers.get(hello.worker)
        if worker is None and len(self._workers) < WORKERS_LIMIT and not self._closing:
            worker = self._workers[hello.worker] = _worker(hello.worker, None)
            if inbound.pid:
                self._watch_process(worker, inbound.pid)
        if worker is not None and worker.is_followed_by(hello):
            self._end(worker)
            worker.conversation = Conversation(wire.TRANSITIONS, peer=worker.name)
            worker.away_until_s, worker.heard_s = 0.0, time.monotonic()
        if worker is None:
            self._refuse(inbound.zone, epoch, "this engine takes no more workers")
        elif worker.conversation.state != "new" or not worker.may_be(inbound.zone, pid):
            why = f"a worker named {hello.worker} is here already: use another name"
            self._refuse(inbound.zone, epoch, why)
            return None
        elif worker.spec is not None and not worker.pid:
            worker.early = inbound
            return None
        else:
            self._peers[inbound.zone, inbound.peer] = worker
            worker.epoch, worker.zone = epoch, inbound.zone
        return worker

    def _refuse(self, zone: str, epoch: str, why: str, *, again: bool = False) -> None:
        """Tell a worker server why it can't serve here; it ends by itself."""
        self._driver.event("worker_refused", self._driver.producer, epoch=epoch, why=why)
        refusal = wire.WorkerRefused(why, again)
        self._driver.send(zone, epoch, DRIVER_TO_WORKER.encode(refusal))

    def _on_inbound(self, worker: Worker, inbound: Inbound, finished: list[Finished]) -> None:
        if inbound.event == "unreachable":
            if worker.zone == REMOTE_WORKERS:
                self._lose(worker, "its connection has ended")
            return
        if inbound.event == "malformed":
            raise RemoteProtocolError("a message of several frames", peer=worker.name)
        if worker.conversation.state in ("ended", "gone"):
            return
        message = DRIVER_TO_WORKER.decode(inbound.payload, peer=worker.name)
        worker.conversation.received(message)
        worker.heard_s = time.monotonic()
        if isinstance(message, wire.Results):
            for result in message.results:
                worker.check(result)
                finished.append((worker, result))
        else:
            self._act(worker, message)

    def _act(self, worker: Worker, message: Message) -> None:
        match message:
            case wire.WorkerHello():
                self._on_hello(worker, message)
            case wire.WorkerReady():
                self._on_ready(worker, message)
            case wire.Heartbeat():
                worker.note_beat(message)
            case wire.AdapterLoaded():
                self.adapters.on_loaded(worker, message)
            case LogRecords():
                self._driver.shipped(worker.producer, message.records)
            case wire.WorkerFailed():
                worker.failure = message
                self._driver.event(
                    "worker_failed",
                    worker.producer,
                    kind=message.kind,
                    why=message.detail,
                    host=worker.host,
                )
                self._leaves(worker, message.detail)
            case wire.WorkerGoodbye():
                worker.is_leaving = True
                self._leaves(worker, "it was told to leave")

    def _leaves(self, worker: Worker, why: str) -> None:
        """Its last word."""
        self._lost.append((worker, why))

    def _on_hello(self, worker: Worker, hello: wire.WorkerHello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            why = f"it speaks protocol {hello.protocol}, this engine {PROTOCOL_VERSION}"
            raise RemoteProtocolError(why, peer=hello.worker)
        if hello.epoch != worker.epoch:
            raise RemoteProtocolError("its identity is not its epoch", peer=hello.worker)
        worker.producer = records.Producer("worker_server", hello.worker, hello.pid)
        worker.host = hello.host
        self._driver.event("worker_connected", worker.producer, epoch=hello.epoch, host=hello.host)
        self._send(worker, Welcome(PROTOCOL_VERSION, HEARTBEAT_S))

    def _on_ready(self, worker: Worker, ready: wire.WorkerReady) -> None:
        if (why := self._differs(ready.card)) is not None:
            raise RemoteProtocolError(why, peer=worker.name)
        if ready.card.adapter is not None or ready.card.weights_version:
            raise RemoteProtocolError("its own card names an adapter", peer=worker.name)
        worker.card, worker.slots = ready.card, ready.slots
        worker.ready_s = time.monotonic()
        worker.token_budget = ready.token_budget
        self._driver.event(
            "worker_ready",
            worker.producer,
            host=worker.host,
            model=ready.card.model,
            device=ready.card.device,
            slots=ready.slots,
            load_s=ready.load_s,
        )
        self.adapters.greet(worker)
        self._settle()

    def _differs(self, card: wire.ModelCard) -> str | None:
        """Why answers of this model could not be told from another's; None if they could."""
        for worker in self._workers.values():
            known = worker.card
            if known is not None and known.model == card.model and worker.is_ready:
                for name in ("weights_hash", "tokenizer_hash", "template_hash"):
                    if getattr(known, name) != getattr(card, name):
                        return f"its {card.model} is another than {worker.name}'s: {name} differs"
        return None


async def _not_ended(workers: Sequence[Worker], deadline_s: float) -> list[Worker]:
    """Those that have not ended when the time is up."""
    due_s = time.monotonic() + deadline_s
    while left := [worker for worker in workers if worker.conversation.state != "ended"]:
        if time.monotonic() > due_s:
            break
        await asyncio.sleep(0.02)
    return left


def _worker(name: str, spec: WorkerSpec | None) -> Worker:
    return Worker(name, spec, Conversation(wire.TRANSITIONS, peer=name))
