"""What was in flight at a worker's death: the culprit is found, the innocent are answered."""

import random
from collections import Counter
from dataclasses import dataclass, field

import msgspec
import pytest

from distill.protocol import worker_link as wire
from distill.protocol.conversation import Conversation
from distill.supervisor.dispatch import DEATHS_ALONE_LIMIT, DEATHS_LIMIT, Dispatch
from distill.supervisor.requests import Outcome, Submission
from distill.supervisor.suspects import suspects_limit
from distill.supervisor.workers import Worker, WorkerSpec

SLOTS = 32
CARD = wire.ModelCard("m", "a", "b", "c", "f32", "cpu", "none", "0", 4096, "raw_logprobs")


def ready(name: str, slots: int = SLOTS) -> Worker:
    conversation = Conversation(wire.TRANSITIONS, peer=name)
    conversation.state = "ready"
    spec = WorkerSpec(name, (), {})
    return Worker(name, spec, conversation, card=CARD, slots=slots, token_budget=1 << 30)


@dataclass
class Engines:
    """Workers that answer one window after the other, and die of ``poison``."""

    poison: frozenset[str] = frozenset()
    count: int = 2
    outcomes: list[Outcome] = field(default_factory=list)
    deaths: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    """How often each request was in flight at a death."""
    windows: list[dict[str, int]] = field(default_factory=list)
    """What was in flight together: the deaths that each had been in flight at."""

    def __post_init__(self) -> None:
        self.workers = [ready(f"w{number}") for number in range(self.count)]
        self.dispatch = Dispatch(lambda: self.workers, lambda worker, requests: None)

    def ask(self, count: int, run: str = "r", model: str = "m") -> None:
        names = [f"{run}{number}" for number in range(count)]
        requests = [wire.Request(name, 1, wire.Sampling(), prompt=name) for name in names]
        self.dispatch.add(Submission(requests, self.outcomes.extend, run, model))

    def kill(self, worker: Worker) -> None:
        self.deaths += 1
        self.lost.update(list(worker.in_flight))
        self.dispatch.release(worker, has_died=True)
        worker.answered, worker.died_of_suspect = 0, False

    def step(self, worker: Worker) -> None:
        """It answers its window in order, up to what it dies of."""
        self.windows.append({name: each.deaths for name, each in worker.in_flight.items()})
        for name, pending in list(worker.in_flight.items()):
            if name in self.poison:
                self.kill(worker)
                break
            result = wire.Result(name, pending.request.attempt, "", "stop", 1, 1, prompt="")
            self.dispatch.commit([(worker, result)])

    def run(self, chance: random.Random | None = None, killed: float = 0.0) -> None:
        for _ in range(10_000):
            self.dispatch.deal()
            busy = [worker for worker in self.workers if worker.in_flight]
            if not busy:
                return
            for worker in busy:
                if chance is not None and chance.random() < killed:
                    self.kill(worker)
                else:
                    self.step(worker)
        raise AssertionError("no end of it")

    def answered(self) -> list[str]:
        return sorted(o.request.id for o in self.outcomes if isinstance(o.result, wire.Result))


@pytest.mark.parametrize("count", [1, 2, 8])
def test_poison_is_found_and_costs_nobody_an_answer(count: int) -> None:
    engines = Engines(poison=frozenset({"r5", "r6", "r700", "r999"}), count=count)
    engines.ask(1000)
    engines.run()
    lost = {o.request.id: o for o in engines.outcomes if o.lost is not None}
    assert set(lost) == engines.poison
    assert {o.lost for o in lost.values()} == {"poison"}
    assert len(engines.answered()) == 996
    assert engines.deaths <= DEATHS_LIMIT * len(engines.poison)
    assert max(engines.lost.values()) == DEATHS_LIMIT
    outcome = lost["r700"]
    assert outcome.request.attempt == DEATHS_LIMIT
    assert isinstance(outcome.result, wire.Failure)
    assert "in flight at the deaths of 5 workers, alone at 3 of them" in outcome.result.detail


def test_what_is_asked_by_itself_is_known_sooner() -> None:
    engines = Engines(poison=frozenset({"r0"}))
    engines.ask(1)
    engines.run()
    assert [o.lost for o in engines.outcomes] == ["poison"]
    assert engines.deaths == DEATHS_ALONE_LIMIT


def test_a_suspect_is_not_kept_waiting_by_another_model_on_its_worker() -> None:
    """An adapter's requests go to the same workers: none of them may fill the one it waits for."""
    engines = Engines(count=2)
    weak, busy = engines.workers
    busy.card = msgspec.structs.replace(CARD, model="other")
    busy.serving["adapter"] = 1
    engines.ask(1)
    engines.ask(500, run="a", model="adapter")
    for _ in range(2):
        engines.dispatch.deal()
        engines.kill(weak)
    engines.workers.remove(weak)
    busy.serving["m"] = 1
    for _ in range(SLOTS):
        engines.dispatch.deal()
        assert "r0" not in busy.in_flight
        name, pending = next(iter(busy.in_flight.items()))
        result = wire.Result(name, pending.request.attempt, "", "stop", 1, 1, prompt="")
        engines.dispatch.commit([(busy, result)])
    engines.dispatch.deal()
    assert list(busy.in_flight) == ["r0"]


def test_few_suspects_share_a_worker_and_who_is_twice_suspect_is_alone() -> None:
    engines = Engines(poison=frozenset({"r40"}))
    engines.ask(500)
    engines.run()
    for window in engines.windows:
        assert sum(deaths > 0 for deaths in window.values()) <= suspects_limit(SLOTS) < SLOTS
        if max(window.values()) >= 2:
            assert len(window) == 1


def test_a_worker_proves_itself_before_it_tries_a_suspect() -> None:
    """Else a worker that dies of itself would make poison of what it is given."""
    engines = Engines(count=1)
    engines.ask(100)
    (worker,) = engines.workers
    for untried in (68, 36, 4, 0):
        engines.dispatch.deal()
        assert {each.deaths for each in worker.in_flight.values()} == {0}
        assert len(engines.dispatch) - sum(engines.lost.values()) == untried
        engines.kill(worker)
    engines.run()
    assert len(engines.answered()) == 100


def test_kills_from_outside_make_no_error_of_an_innocent() -> None:
    """One window in thirty is lost, which is far more than happens to a fleet."""
    for seed in range(20):
        engines = Engines(poison=frozenset({"r77"}), count=3)
        engines.ask(2000)
        engines.run(random.Random(seed), killed=1 / 30)
        assert engines.deaths > 3
        lost = {o.request.id: o.lost for o in engines.outcomes if o.lost is not None}
        assert lost == {"r77": "poison"}, f"seed {seed}"
        assert len(engines.answered()) == 1999
        assert len(engines.dispatch) == 0


def test_who_leaves_in_order_makes_no_suspects() -> None:
    engines = Engines(count=1)
    engines.ask(40)
    (worker,) = engines.workers
    for _ in range(DEATHS_LIMIT + 1):
        engines.dispatch.deal()
        engines.dispatch.release(worker, has_died=False)
    engines.run()
    assert len(engines.answered()) == 40
    assert {window[name] for window in engines.windows for name in window} == {0}


def test_suspects_are_forgotten_when_they_are_cancelled() -> None:
    engines = Engines(count=1)
    engines.ask(40)
    engines.ask(2, run="other")
    engines.dispatch.deal()
    engines.kill(engines.workers[0])
    engines.dispatch.remove("r")
    assert len(engines.dispatch) == 2
    engines.run()
    assert engines.answered() == ["other0", "other1"]


def test_suspects_that_no_worker_is_left_for_are_lost() -> None:
    engines = Engines(count=1)
    engines.ask(10)
    engines.dispatch.deal()
    engines.kill(engines.workers[0])
    engines.workers.clear()
    engines.dispatch.fail_hopeless("")
    assert {o.lost for o in engines.outcomes} == {"lost"}
    assert len(engines.outcomes) == 10
