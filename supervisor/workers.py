"""One worker server as the driver sees it: how it is started, what it has in flight."""

from dataclasses import dataclass, field

from distill.protocol import worker_link as wire
from distill.protocol.conversation import Conversation
from distill.supervisor.requests import Pending
from distill.traces import records


@dataclass(slots=True)
class WorkerSpec:
    """How a local worker server is started."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]


@dataclass(slots=True)
class Worker:
    """One incarnation of a worker server, as the driver sees it."""

    spec: WorkerSpec
    conversation: Conversation
    epoch: str = ""
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
    ready_s: float = 0.0
    step_age_s: float = 0.0
    slowest_step_s: float = 0.0

    @property
    def is_ready(self) -> bool:
        return self.conversation.state == "ready"

    def note_step(self, beat: wire.Heartbeat) -> None:
        """Learn from a heartbeat how long the engine's steps take."""
        if beat.last_step_age_s < self.step_age_s:  # it was working at a step, and finished it
            self.slowest_step_s = max(self.slowest_step_s, self.step_age_s)
        self.step_age_s = beat.last_step_age_s if self.in_flight else 0.0

    def has_room(self, pending: Pending) -> bool:
        """Whether its credit covers one more; an idle worker takes any single request."""
        if not self.in_flight:
            return True
        return (
            len(self.in_flight) < self.slots
            and self.tokens_in_flight + pending.tokens <= self.token_budget
        )

    def take(self, pending: Pending) -> None:
        """Put a request in flight here."""
        self.in_flight[pending.request.id] = pending
        self.tokens_in_flight += pending.tokens

    def give_back(self, request_id: str) -> Pending | None:
        """Take a request out of flight; None if it is not in flight here."""
        pending = self.in_flight.pop(request_id, None)
        if pending is not None:
            self.tokens_in_flight -= pending.tokens
        return pending

    def give_back_all(self) -> list[Pending]:
        """Take every request out of flight."""
        returned = list(self.in_flight.values())
        self.in_flight.clear()
        self.tokens_in_flight = 0
        return returned
