"""The whole of it with the real engine and the small model, on a real book; then its deaths."""

import json
import random
import time
from pathlib import Path

import psutil
import pytest

from distill.traces import read, validate
from tests.distill.commands import Command
from tests.supervisor.processes import below, kill, tree, wait_until

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

BOOK = Path(__file__).resolve().parents[2] / "examples" / "kjv.txt"
START_S = 300.0


def question(short: Path, *words: str) -> Command:
    log = str(short / "log")
    book = ("-c", str(BOOK), "-q", "Who was Moses' brother?", "--log-dir", log)
    # HOME holds the prepared model; everything else is the test's own.
    return Command(short, *words, *book, HOME=str(Path.home()))


def test_a_book_is_asked_and_the_engine_survives_its_deaths(short: Path) -> None:
    """One engine for all of it: its start takes minutes."""
    up = Command(short, "up", HOME=str(Path.home()))
    try:
        up.wait_for("The engine is up", START_S)
        asks_the_book(short, up)
        is_seen(short)
        for mark in ("worker_server", "EngineCore"):
            survives(short, up, mark)
        up.look()
        began_s = time.monotonic()
        up.interrupt()
        up.process.wait(15)
        up.nothing_left()
        assert time.monotonic() - began_s < 10
        assert "Traceback" not in up.err
    finally:
        up.end()


def asks_the_book(short: Path, up: Command) -> None:
    asked = question(short, "run")
    done = asked.done(300)
    assert done.code == 0, done.err
    assert done.out == "Aaron\n"
    for part in ("Evidence", "Votes", "Read", "--worker MODEL"):
        assert part in done.err
    assert validate(short / "log")[1] == []
    (run,) = read(short / "log").runs.values()
    passages = {(s.start, s.end) for call in run.calls for s in call.spans}
    prompts = {call.prompt for call in run.calls if call.spans}
    assert len(prompts) >= 100
    assert len(passages) >= 100
    for call in run.calls:
        assert call.error is None
        assert call.token_ids
        assert call.prompt_token_ids
        model = call.model
        assert min(map(len, (model.weights_hash, model.tokenizer_hash, model.template_hash))) == 64
        assert call.producer.kind == "worker_server"
        assert all(run.context()[s.start : s.end] in call.prompt for s in call.spans[:1])
    for name in ("supervisor.jsonl", "worker.jsonl"):
        text = (short / "log" / name).read_text()
        for kind in ("driver", "sandbox", "worker_server"):
            assert f'"kind":"{kind}"' in text


def is_seen(short: Path) -> None:
    """What the real engine's statistics say reaches whoever looks."""
    done = Command(short, "doctor", "--engine", "--json", HOME=str(Path.home())).done(60)
    assert done.code == 0, done.out
    (worker,) = json.loads(done.out)["engine"]["workers"]
    assert (worker["state"], worker["failures"], worker["restarts"]) == ("ready", 0, 0)
    # The recipe's prompts begin with the same examples.
    assert 0 < worker["cached_tokens"] < worker["prompt_tokens"]
    assert worker["completion_tokens"] > 100


def survives(short: Path, up: Command, mark: str) -> None:
    """A process of the engine dies in the middle of a run: it ends or recovers, nothing hangs."""
    before = len((short / "log" / "worker.jsonl").read_text().splitlines())
    asked = question(short, "run")
    try:
        wait_until(
            lambda: len((short / "log" / "worker.jsonl").read_text().splitlines()) > before + 8,
            60,
            f"some answers: {asked.err}",
        )
        up.look()
        killed = named(up.pid, mark)
        assert killed, tree(up.pid)
        kill(killed[0])
        done = asked.done(START_S)
        assert done.code in (0, 4), done.err
        if done.code == 0:
            assert done.out == "Aaron\n"
        assert "Traceback" not in done.err
        wait_until(lambda: not psutil.pid_exists(killed[0]), 10, "reaped")
    finally:
        asked.end()
    for run in read(short / "log").runs.values():
        assert run.end is not None
        assert len({call.id for call in run.calls}) == len(run.calls)


def named(pid: int, mark: str) -> list[int]:
    """By command line, or by the title that vLLM gives its processes."""
    return [each for each in below(pid, mark) if "launcher" not in tree(pid).get(each, "")]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("mark", ["worker_server", "EngineCore"])
def test_the_engine_dies_at_a_random_moment(short: Path, mark: str, seed: int) -> None:
    """While it loads or while it answers; the run ends or recovers, and nothing is left."""
    moment_s = random.Random(f"{mark}{seed}").uniform(0.5, 15.0)
    asked = question(short, "up")
    try:
        wait_until(lambda: bool(named(asked.pid, mark)), START_S, f"a process {mark}")
        time.sleep(moment_s)
        asked.look()
        for victim in named(asked.pid, mark)[:1]:
            kill(victim)
        done = asked.done(START_S)
        assert done.code in (0, 4), done.err
        assert "Traceback (most recent call last)" not in done.out
        asked.nothing_left()
    finally:
        asked.end()
    # Where the engine died before it could serve there was no run yet, and so no log.
    if (short / "log" / "supervisor.jsonl").is_file():
        for run in read(short / "log").runs.values():
            assert run.end is not None
            assert len({call.id for call in run.calls}) == len(run.calls)
