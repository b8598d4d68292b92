"""What a run would take, without an engine and with nothing sent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill import Budget, OpenAIHandler, estimate, run
from distill.errors import InputError
from distill.traces import read
from tests.distill.scripted import SMALL, Endpoint, Worker, endpoint, run_bounded

TEXT = "\n\n".join(f"Paragraph {n}: the king went to the town of Place{n}." for n in range(300))
TABLE = {
    "models": [
        {"models": ["boss"], "input": 2.0, "output": 8.0},
        {"models": ["hand"], "input": 1.0, "output": 4.0},
    ]
}


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint(lambda _request: "nobody asks this") as server:
        yield server


def test_a_recipes_calls_are_those_that_the_run_makes(server: Endpoint, tmp_path: Path) -> None:
    hand = OpenAIHandler("hand", server.url, "none")
    hand.window_tokens = 1024
    told = run_bounded(
        lambda: estimate("Where?", TEXT, "recipe:map-reduce", hand, prices=TABLE, limits=SMALL)
    )
    assert server.requests == []
    worker = Worker(lambda _prompt: "")
    worker.window_tokens = 1024
    run_bounded(
        lambda: run("Where?", TEXT, "recipe:map-reduce", worker, log_dir=tmp_path, limits=SMALL)
    )
    (logged,) = read(tmp_path).runs.values()
    assert told.worker_calls == told.batches[0] == len(logged.calls) > 5
    assert told.exact_batches == 1
    assert told.dollars is not None
    assert 0 < told.dollars < 0.1
    assert told.limits == {"dollars": 5.0}
    assert f"{told.worker_calls} calls in 1 batch" in str(told)


def test_a_models_run_is_measured_assumed_and_capped(server: Endpoint) -> None:
    boss = OpenAIHandler("boss", server.url, "none")
    told = run_bounded(
        lambda: estimate(
            "Where?",
            TEXT,
            boss,
            Worker(),
            max_iterations=4,
            prices={"models": [{"models": ["*"], "input": 2.0, "output": 8.0}]},
            budget=Budget(dollars=0.5, worker_calls=100),
        )
    )
    assert server.requests == []
    assert told.worker_calls is None
    assert told.dollars is None
    tokens = told.supervisor_input_tokens, told.supervisor_output_tokens
    assert tokens[1] == 5 * 1000
    assert told.supervisor_dollars == pytest.approx((tokens[0] * 2 + tokens[1] * 8) / 1e6)
    assert told.limits == {"dollars": 0.5, "worker_calls": 100}
    assert "Limits      100 worker calls, $0.5000" in str(told)
    assert "assumed: all 4 turns" in str(told)


def test_a_replay_is_nothing_to_estimate(tmp_path: Path) -> None:
    worker: Any = Worker()
    run_bounded(
        lambda: run("Where?", TEXT, "recipe:map-reduce", worker, log_dir=tmp_path, limits=SMALL)
    )
    with pytest.raises(InputError, match="costs nothing"):
        run_bounded(lambda: estimate("Where?", TEXT, f"replay:{tmp_path}", worker))
