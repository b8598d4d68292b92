"""Budgets, prices and the dry run by the command line, and by a client of an engine."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill import Budget, Engine
from tests.distill.commands import QUESTION, TEXT, command, command_beside, command_here, engine
from tests.distill.scripted import Endpoint, cell, completion, endpoint

PRICES = '[[models]]\nmodels = ["scripted"]\ninput = 10\noutput = 100\n'
BATCH = "got = []\ntry:\n    worker_batch(list('abcde'))\nexcept WorkerBudgetError as error:\n"
REPLIES = [cell(f"{BATCH}    got = error.answers\nprint(got)"), cell("FINAL(got)")]


def answer(request: dict[str, Any]) -> Any:
    """Both models: a supervisor is told of a REPL."""
    if "REPL" not in request["messages"][0]["content"]:
        return completion("yes")
    return REPLIES[sum(message["role"] == "assistant" for message in request["messages"])]


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint(answer) as server:
        yield server


@pytest.fixture
def words(short: Path, server: Endpoint) -> tuple[str, ...]:
    """What a command is asked with: one endpoint is supervisor and worker."""
    (short / "text.txt").write_text(TEXT)
    (short / "prices.toml").write_text(PRICES)
    both = ("--supervisor", "scripted", "--base-url", server.url)
    asked = ("-c", str(short / "text.txt"), "-q", QUESTION)
    return (*asked, *both, "--prices", str(short / "prices.toml"))


def worker(server: Endpoint) -> tuple[str, ...]:
    return ("--worker", "scripted", "--worker-url", server.url)


def test_up_keeps_to_a_budget_and_says_what_it_cost(
    short: Path, server: Endpoint, words: tuple[str, ...]
) -> None:
    done = command(short, "up", *words, *worker(server), "--max-worker-calls", "2")
    assert done.code == 0, done.err
    assert done.out == '["yes", "yes", null, null, null]\n'
    # Two calls and two turns of 11 and 4 tokens.
    assert "Cost        $0.0020 of at most $5.00" in done.err
    assert "the budget of worker calls was used up" in done.err
    assert "a run may cost up to $5.00" in done.err


def test_a_dry_run_sends_nothing(short: Path, server: Endpoint, words: tuple[str, ...]) -> None:
    done = command(short, "up", *words, *worker(server), "--dry-run", "--max-dollars", "2")
    assert done.code == 0, done.err
    assert "nothing was sent" in done.out
    assert "Limits      $2.0000" in done.out
    assert server.requests == []
    assert not list(short.glob("distill/*/supervisor.jsonl"))


def test_a_run_that_a_budget_ended_without_an_answer(
    short: Path, server: Endpoint, words: tuple[str, ...]
) -> None:
    with endpoint(lambda _: cell("worker('a')")) as boss:
        bounded = ("--base-url", boss.url, "--max-worker-calls", "2")
        done = command(short, "up", *words, *worker(server), *bounded)
    assert (done.code, done.out) == (5, ""), done.err
    assert "the answer is the best" not in done.err
    said = "the 2 worker calls of --max-worker-calls were used up; raise it, or ask again"
    assert done.err.splitlines()[-1] == f"distill: no answer: {said}"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--max-dollars", "-1"), "--max-dollars"),
        (("--max-tokens", "0"), "--max-tokens"),
        (("--prices", "/nowhere.toml"), "nowhere.toml"),
        (("--max-gpu-s", "5"), "an endpoint does not say what it takes"),
    ],
    ids=["dollars", "tokens", "prices", "devices"],
)
def test_bad_budgets_are_refused_first(
    short: Path, server: Endpoint, words: tuple[str, ...], more: tuple[str, ...], said: str
) -> None:
    done = command_here(short, "up", *words, *worker(server), *more)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_no_worker_is_started_for_a_budget_without_a_turn(
    short: Path, server: Endpoint, words: tuple[str, ...]
) -> None:
    done = command(short, "up", *words, "--max-tokens", "1500")
    assert done.code == 2
    assert "for one turn" in done.err
    assert "starting the worker" not in done.err
    assert server.requests == []


@pytest.mark.slow
def test_a_client_has_the_same(short: Path, server: Endpoint, words: tuple[str, ...]) -> None:
    with engine(short, server) as up:
        done = command_beside(short, "run", *words, "--max-worker-calls", "3")
        assert done.out == '["yes", "yes", "yes", null, null]\n', done.err
        sent = len(server.requests)
        dry = command_beside(short, "run", *words, "--dry-run")
        assert dry.code == 0, dry.err
        assert "Limits      $5.0000" in dry.out
        assert len(server.requests) == sent
        found = re.search(r"ipc://[^']*", up.err)
        assert found is not None
        with Engine(found.group()) as client:
            limit = Budget(worker_calls=1)
            result = client.run(
                QUESTION, TEXT, "scripted", budget=limit, base_url=server.url, prices={"models": []}
            )
        assert result.answer == ["yes", None, None, None, None]
        assert result.ended_by == "worker_calls"
        assert result.dollars == 0
