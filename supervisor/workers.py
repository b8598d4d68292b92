"""One worker server as the driver sees it: where it comes from, what it has in flight."""

import time
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from distill.protocol import worker_link as wire
from distill.protocol.conversation import Conversation
from distill.protocol.errors import RemoteProtocolError
from distill.protocol.launcher_link import Exited, Kill, NotStarted, Spawn
from distill.protocol.sockets import Inbound
from distill.supervisor.device_clock import DeviceClock
from distill.supervisor.exits import Watch
from distill.supervisor.meter import Meter
from distill.supervisor.requests import ALONE_FROM_DEATHS, Pending
from distill.traces import records

LOCAL_WORKERS = "workers"
"""The driver's zone for workers on this machine."""
SILENCE_LIMIT_S = 5.5
"""A ready worker that is silent this long is frozen; so it is noticed within 6 s (design §3)."""
LOADING_SILENCE_LIMIT_S = 60.0
ENDING_LIMIT_S = 15.0
"""What has said its last word, or was killed, must be gone by then."""
STEP_LIMIT_S = 30.0
STEP_FACTOR = 5
"""No progress for this long, and for this many times the slowest step seen: a hang."""
TOLD_TO_LEAVE = "the worker server was told to leave"
SUPERVISOR_PREFIX = "local:"
"""Before the model that answers runs' supervisors: it is asked apart from the workers' models."""

Role = Literal["worker", "supervisor"]


class Starter(Protocol):
    """Starts and kills children, and has the driver told of them: a launcher, here or elsewhere."""

    def send(self, message: Spawn | Kill, /) -> None:
        """Do this; what comes of it is told later."""


@dataclass(slots=True)
class WorkerSpec:
    """How a worker server is started, and for whom: worker calls, or runs' supervisors.

    ``starter`` None: by this machine's launcher.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    role: Role = "worker"
    starter: Starter | None = None


@dataclass(slots=True)
class Worker:
    """A worker server. One without a ``spec`` has joined by itself, and is nobody's to restart."""

    name: str
    spec: WorkerSpec | None
    conversation: Conversation
    epoch: str = ""
    zone: str = LOCAL_WORKERS
    """Of the driver's, by which it is reached."""
    host: str = ""
    """The name of its machine, as it says."""
    away_until_s: float = 0.0
    """It was lost with its connection, and may come back until then."""
    pid: int = 0
    """Of its process, where the kernel or the launcher has told; it is watched."""
    watch: Watch | None = None
    early: Inbound | None = None
    """A Hello that came before the launcher had told the pid."""
    has_exited: bool = False
    """Its process has ended; what it had said before may still be read."""
    producer: records.Producer = field(
        default_factory=lambda: records.Producer("worker_server", "", 0)
    )
    card: wire.ModelCard | None = None
    slots: int = 0
    token_budget: int = 0
    in_flight: dict[str, Pending] = field(default_factory=dict)
    tokens_in_flight: int = 0
    heard_s: float = 0.0
    failure: wire.WorkerFailed | None = None
    restarts: int = 0
    """In a row, of lives in which it answered nothing."""
    answered: int = 0
    """Requests, since its start."""
    died_of_suspect: bool = False
    """A request that was under suspicion was alone here when it died."""
    ready_s: float = 0.0
    is_leaving: bool = False
    """It finishes what it has, and takes nothing new."""
    step_age_s: float = 0.0
    slowest_step_s: float = 0.0
    meter: Meter = field(default_factory=Meter)
    clock: DeviceClock = field(default_factory=DeviceClock)
    serving: dict[str, int] = field(default_factory=dict)
    """The adapters that it answers with, each in this version."""
    expected: set[str] = field(default_factory=set)
    """The adapters that it loads, or will load when it has been started again."""
    adapter_cards: dict[tuple[str, int], wire.ModelCard] = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests."""
        return self.conversation.state == "ready" and not self.is_leaving and not self.has_exited

    @property
    def role(self) -> Role:
        """For whom it is."""
        return self.spec.role if self.spec is not None else "worker"

    @property
    def model(self) -> str | None:
        """The name by which its model is asked, once it has said."""
        if self.card is None:
            return None
        return self.card.model if self.role == "worker" else SUPERVISOR_PREFIX + self.card.model

    @property
    def has_failed(self) -> bool:
        """Whether it is gone for good."""
        return self.conversation.state == "ended" and self.failure is not None

    def is_followed_by(self, hello: wire.WorkerHello) -> bool:
        """Whether this Hello is of its next incarnation: it was lost, and here it is again."""
        is_same = hello.succeeds is not None and hello.succeeds == self.epoch
        return self.spec is None and (is_same or self.away_until_s > 0)

    def may_be(self, zone: str, pid: int) -> bool:
        """Whether a process that comes in there can be this one."""
        is_there = (zone == LOCAL_WORKERS) != self.is_elsewhere
        return self.spec is None or (is_there and self.pid in (0, pid))

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is started on another machine."""
        return self.spec is not None and self.spec.starter is not None

    def is_lost_elsewhere(self, message: Exited | NotStarted) -> bool:
        """Whether it ended on another machine without a word: the machine may be gone."""
        return self.is_elsewhere and self.failure is None and isinstance(message, Exited)

    def serves(self, model: str) -> bool:
        """Whether it answers for this model, or for the adapter of this name."""
        return model == self.model or model in self.serving

    def stamped(self, request: wire.Request, model: str) -> wire.Request:
        """The request as it is sent here: for an adapter it names the version that answers now."""
        version = self.serving.get(model, 0)
        if not version:
            return request
        return msgspec.structs.replace(request, adapter=model, weights_version=version)

    def learn(self, adapter: str, version: int, files_hash: str) -> None:
        """It has loaded a version: answers that name it are stamped with its own card."""
        assert self.card is not None
        self.adapter_cards[adapter, version] = msgspec.structs.replace(
            self.card, adapter=adapter, weights_version=version, adapter_hash=files_hash
        )

    def check(self, result: wire.Result | wire.Failure) -> None:
        """Raise RemoteProtocolError for an answer by something else than what was asked."""
        pending = self.in_flight.get(result.id)
        if pending is None or isinstance(result, wire.Failure):
            return
        request = pending.request
        asked, said = _answers_for(request), _answers_for(result)
        if result.attempt == request.attempt and said != asked:
            why = f"{result.id} was asked of {asked}, and the answer is of {said}"
            raise RemoteProtocolError(why, peer=self.name)

    def card_of(self, request: wire.Request) -> wire.ModelCard | None:
        """What exactly answers a request that was sent here; None if that is not known."""
        if request.adapter is None:
            return self.card
        return self.adapter_cards.get((request.adapter, request.weights_version))

    def may_serve(self, model: str) -> bool:
        """Whether it does, or may yet: it has not said, or is being started again."""
        if self.has_failed or self.is_leaving:
            return False
        if self.model is None:
            return (self.role == "supervisor") == model.startswith(SUPERVISOR_PREFIX)
        return self.serves(model) or model in self.expected

    def note_beat(self, beat: wire.Heartbeat) -> None:
        """Learn from a heartbeat whether it leaves, and how long the engine's steps take."""
        self.meter.note(beat, self.heard_s)
        self.is_leaving = beat.state == "draining"
        if beat.last_step_age_s < self.step_age_s:  # it was working at a step, and finished it
            self.slowest_step_s = max(self.slowest_step_s, self.step_age_s)
        self.step_age_s = beat.last_step_age_s if self.in_flight else 0.0

    @property
    def is_kept_alone(self) -> bool:
        """Whether what it has in flight must stay alone there."""
        return (
            len(self.in_flight) == 1
            and next(iter(self.in_flight.values())).deaths >= ALONE_FROM_DEATHS
        )

    def has_room(self, pending: Pending) -> bool:
        """Whether its credit covers one more; an idle worker takes any single request."""
        if not self.in_flight:
            return True
        return (
            not self.is_kept_alone
            and len(self.in_flight) < self.slots
            and self.tokens_in_flight + pending.tokens <= self.token_budget
        )

    def take(self, pending: Pending) -> None:
        """Put a request in flight here; its id is none of those that are."""
        pending.mark_s = self.clock.enter(time.monotonic())
        self.in_flight[pending.request.id] = pending
        self.tokens_in_flight += pending.tokens

    def give_back(self, request_id: str) -> Pending | None:
        """Take a request out of flight; None if it is not in flight here."""
        pending = self.in_flight.pop(request_id, None)
        if pending is not None:
            self.tokens_in_flight -= pending.tokens
            self._stop_clock(pending, time.monotonic())
        return pending

    def give_back_all(self) -> list[Pending]:
        """Take every request out of flight."""
        returned, now_s = list(self.in_flight.values()), time.monotonic()
        for pending in returned:
            self._stop_clock(pending, now_s)
        self.in_flight.clear()
        self.tokens_in_flight = 0
        return returned

    def _stop_clock(self, pending: Pending, now_s: float) -> None:
        devices = self.card.device.count("+") + 1 if self.card is not None else 1
        pending.gpu_s += self.clock.leave(pending.mark_s, now_s) * devices


def _answers_for(named: wire.Request | wire.Result) -> str:
    if named.adapter is None and not named.weights_version:
        return "the model itself"
    return f"version {named.weights_version} of the adapter {named.adapter!r}"


def hang(worker: Worker, silent_s: float) -> str:
    """Why a worker is taken for frozen; "" if it is not."""
    if worker.has_exited:
        return ""  # the launcher is at the rest of it
    state = worker.conversation.state
    if worker.spec is not None and state == "new" and silent_s > LOADING_SILENCE_LIMIT_S:
        return f"said nothing for {silent_s:.0f} s after its start"
    if worker.spec is not None and state == "gone" and silent_s > ENDING_LIMIT_S:
        return f"lived on for {silent_s:.0f} s after its last word"
    if state == "ready" and silent_s > SILENCE_LIMIT_S:
        return f"silent for {silent_s:.0f} s"
    if state == "loading" and silent_s > LOADING_SILENCE_LIMIT_S:
        return f"silent for {silent_s:.0f} s while loading"
    limit_s = max(STEP_LIMIT_S, STEP_FACTOR * worker.slowest_step_s)
    if worker.in_flight and worker.step_age_s > limit_s:
        return f"no step for {worker.step_age_s:.0f} s with {len(worker.in_flight)} in flight"
    return ""
