"""What the driver sends to a worker, and what it refuses to; no process."""

from distill.protocol import worker_link as wire
from distill.protocol.codec import DRIVER_TO_WORKER
from distill.supervisor.dispatch import Dispatch
from distill.supervisor.requests import Outcome, Submission
from distill.supervisor.workers import Worker
from tests.supervisor.test_suspects import ready


class Sent:
    """A worker that takes everything, and what came of what was asked."""

    def __init__(self) -> None:
        self.worker = ready("w0")
        self.ids: list[str] = []
        self.outcomes: dict[str, list[Outcome]] = {}
        self.dispatch = Dispatch(lambda: [self.worker], self.send)

    def send(self, _: Worker, message: wire.Requests) -> None:
        DRIVER_TO_WORKER.encode(message)
        self.ids.extend(request.id for request in message.requests)

    def ask(self, run: str, **prompts: str) -> None:
        requests = [
            wire.Request(name, 1, wire.Sampling(), prompt=prompt)
            for name, prompt in prompts.items()
        ]
        deliver = self.outcomes.setdefault(run, []).extend
        self.dispatch.add(Submission(requests, deliver, run, "m"))


def refused(outcomes: list[Outcome]) -> list[tuple[str, str | None]]:
    return [(outcome.request.id, outcome.lost) for outcome in outcomes]


def test_a_request_without_a_wire_form_fails_alone() -> None:
    """It shares its frame with those of other runs."""
    sent = Sent()
    sent.ask("A", a0="sound", a1="half of a pair: \ud800", a2="sound")
    sent.ask("B", b0="sound", b1="sound")
    sent.dispatch.deal()
    assert refused(sent.outcomes["A"]) == [("a1", "bad_request")]
    assert sent.outcomes["B"] == []
    assert sorted(sent.ids) == sorted(sent.worker.in_flight) == ["a0", "a2", "b0", "b1"]


def test_an_id_that_is_in_flight_already_is_refused_and_takes_no_credit() -> None:
    sent = Sent()
    sent.ask("A", same="a prompt", other="a prompt")
    sent.dispatch.deal()
    credit = sent.worker.tokens_in_flight
    sent.ask("B", same="another prompt")
    sent.dispatch.deal()
    assert refused(sent.outcomes["B"]) == [("same", "bad_request")]
    assert sent.worker.tokens_in_flight == credit
    for name in ("same", "other"):
        result = wire.Result(name, 1, "x", "stop", 1, 1, prompt="a prompt")
        sent.dispatch.commit([(sent.worker, result)])
    assert refused(sent.outcomes["A"]) == [("same", None), ("other", None)]
    assert sent.worker.tokens_in_flight == 0
