"""Real engines on two cores answer one run together; a third joins it, and one is killed.

The run asks what the same run asked before, undisturbed, and must come to the same answers. They
are greedy, but who is computed beside whom changes with every disturbance, and with it the order of
additions: in bfloat16, which the model is made for, a token is another now and then. So it is
computed in float32 here.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from distill.traces import Run, read
from distill.user_folders import cache_folder
from distill.worker_server import model
from tests.distill.commands import Command
from tests.distill.scripted import Endpoint, cell, endpoint
from tests.supervisor.processes import below, kill, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(1800)]

BOOK = Path(__file__).resolve().parents[2] / "examples" / "kjv.txt"
PASSAGES, PASSAGE_CHARS = 1500, 300
FIRST_PART = f"""
starts = range(0, len(context), {PASSAGE_CHARS})
prompts = [context[start : start + {PASSAGE_CHARS}] + "\\n\\nIn short:" for start in starts]
answers = worker_batch(prompts[:500], chat=False, max_tokens=16)
"""
THE_REST = "FINAL(answers + worker_batch(prompts[500:], chat=False, max_tokens=16))"
C = TypeVar("C", Command, "Asked")
START_S = 300.0
RUN_S = 700.0
LOOK_S = 0.5
FIRST_MESSAGES = 2
"""Of a conversation that begins: the system's and the question."""


@pytest.fixture
def float32(short: Path) -> Path:
    """The small model, computed in float32."""
    folder = short / "float32"
    folder.mkdir()
    for file in model.resolve(None, cache_folder()).path.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    return folder


class Boss:
    """The supervisor: it thinks about its second turn until it may go on."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()

    def reply(self, request: dict[str, Any]) -> str:
        if len(request["messages"]) <= FIRST_MESSAGES:
            return cell(FIRST_PART)
        self.may_go_on.wait(START_S)
        return cell(THE_REST)


@pytest.fixture
def boss() -> Boss:
    return Boss()


@pytest.fixture
def served(boss: Boss) -> Iterator[Endpoint]:
    with endpoint(boss.reply) as server:
        yield server


class Asked:
    """One run of the engine, under way."""

    def __init__(self, short: Path, served: Endpoint, log: str) -> None:
        text = short / "text.txt"
        text.write_text(BOOK.read_text()[: PASSAGES * PASSAGE_CHARS])
        self._log = short / log
        self._command = Command(
            short, "run", "-c", str(text), "-q", "What is it about?", "--log-dir", str(self._log),
            "--supervisor", "scripted", "--base-url", served.url, HOME=str(Path.home()),
        )  # fmt: skip

    def by(self) -> set[str]:
        """Who has answered so far."""
        runs = read(self._log).runs.values() if (self._log / "worker.jsonl").exists() else ()
        return {call.producer.name for run in runs for call in run.calls}

    def run(self) -> Run:
        """As it is in the log, where there is no other."""
        (run,) = read(self._log).runs.values()
        return run

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        def is_so() -> bool:
            time.sleep(LOOK_S)  # each look reads the whole log, on the cores that it is about
            assert self._command.process.poll() is None, f"ended before {what}"
            return condition()

        wait_until(is_so, RUN_S, what)

    def answer(self) -> list[str]:
        done = self._command.done(RUN_S)
        assert done.code == 0, done.err
        answers: list[str] = json.loads(done.out)
        return answers

    def end(self) -> None:
        self._command.end()


def answered(run: Run) -> dict[tuple[int, int], Any]:
    """Each call's answer by its place; there is one of each."""
    found = {(call.cell, call.item): (call.response, call.token_ids) for call in run.calls}
    assert len(run.calls) == len(found) == PASSAGES
    return found


def test_one_joins_and_one_is_killed_and_the_answer_is_the_same(
    short: Path, float32: Path, boss: Boss, served: Endpoint
) -> None:
    first, second = sorted(os.sched_getaffinity(0))[:2]
    home = str(Path.home())
    engine = ("up", "--worker", str(float32), "--cores", f"{first},{second}")
    started: list[Command | Asked] = []

    def begun(command: C) -> C:
        started.append(command)
        return command

    try:
        up = begun(Command(short, *engine, "--window-tokens", "1024", HOME=home))
        up.wait_for("The engine is up", START_S)
        boss.may_go_on.set()
        before = begun(Asked(short, served, "undisturbed"))
        answers = before.answer()
        assert before.by() == {"worker-0", "worker-1"}

        boss.may_go_on.clear()
        run = begun(Asked(short, served, "disturbed"))
        run.wait_for(lambda: run.by() == {"worker-0", "worker-1"}, "both answer")
        joining = ("worker", "--name", "third", "--worker", str(float32), "--cores", str(first))
        third = begun(Command(short, *joining, "--window-tokens", "1024", HOME=home))
        third.wait_for("engine ready", START_S)
        assert "third" not in run.by()
        boss.may_go_on.set()
        run.wait_for(lambda: "third" in run.by(), "the third answers")
        (killed,) = below(up.pid, "--worker worker-0")
        kill(killed)
        assert run.answer() == answers
        assert answered(run.run()) == answered(before.run())
        assert {call.attempt for call in run.run().calls} == {1, 2}
        up.look()
        up.interrupt()
        up.process.wait(15)
        assert third.done(30).code == 0, "the engine has told it to end"
        third.nothing_left()
        up.nothing_left()
    finally:
        for each in reversed(started):
            each.end()
