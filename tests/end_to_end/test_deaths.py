"""Any process killed with SIGKILL at a random moment: nothing stays, nothing released is lost."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from distill.traces import Run, read, validate
from tests.distill.commands import QUESTION, TEXT, Command, rests
from tests.distill.scripted import Endpoint, cell, endpoint
from tests.supervisor.processes import (
    below,
    environment,
    is_alive,
    kill,
    left,
    tree,
    wait_until,
)

ANSWER_S = 0.08
CODE = """
for round in range(200):
    answers = worker_batch([f'{round}.{i}' for i in range(12)])
    worker('saw ' + ' '.join(answers))
FINAL('done')
"""
VICTIMS = ("driver", "launcher", "keeper", "interpreter")


class Answers:
    """Numbers every answer; a prompt that quotes one proves that the cell had got it."""

    def __init__(self) -> None:
        self.quoted: set[str] = set()
        self._count = 0
        self._lock = threading.Lock()

    def __call__(self, request: dict[str, Any]) -> str:
        prompt = str(request["messages"][-1]["content"])
        time.sleep(ANSWER_S)
        with self._lock:
            if prompt.startswith("saw "):
                self.quoted.update(prompt.split()[1:])
            self._count += 1
            return f"answer-{self._count}"


def victim(up: Command, name: str) -> int:
    """The pid of one process of the trio."""
    if name == "driver":
        return up.pid
    mark = {"launcher": "supervisor.launcher", "keeper": "sandbox.keeper"}.get(name)
    if mark is not None:
        return below(up.pid, mark)[0]
    outer = below(up.pid, "bwrap") or [pid for pid, word in tree(up.pid).items() if "jail" in word]
    # The innermost process below bubblewrap is the interpreter.
    deepest = outer[0]
    while children := psutil.Process(deepest).children():
        deepest = children[0].pid
    return deepest


def check_logs(log: Path, answers: Answers) -> Run:
    """Both files can be read, and every answer that a cell had is in them."""
    trace = read(log)
    assert len(trace.skipped) <= 2, trace.skipped
    (run,) = trace.runs.values()
    logged = {call.response for call in run.calls}
    assert answers.quoted <= logged, f"released but not logged: {answers.quoted - logged}"
    assert run.start is not None
    assert run.context() == TEXT
    whole = [p for p in validate(log)[1] if "run_end" not in p.what and ".jsonl:" not in p.where]
    assert whole == []
    return run


def asking(short: Path, server: Endpoint, boss: Endpoint, log: Path, turns: int = 3) -> Command:
    text = short / "text.txt"
    text.write_text(TEXT)
    return Command(
        short, "up", "-c", str(text), "-q", QUESTION, "--log-dir", str(log),
        "--worker-url", server.url, "--worker", "scripted",
        "--supervisor", "scripted", "--base-url", boss.url, "--max-iterations", str(turns),
    )  # fmt: skip


def replies() -> Callable[[dict[str, Any]], str]:
    """The first cell works for long; whatever becomes of it, the next reply ends the run."""

    def reply(request: dict[str, Any]) -> str:
        spoken = [message for message in request["messages"] if message["role"] == "assistant"]
        return cell(CODE) if not spoken else cell("FINAL('recovered')")

    return reply


def kill_once(short: Path, name: str, seed: int) -> None:
    moment = random.Random(seed)
    answers = Answers()
    log = short / "log"
    with endpoint(answers) as server, endpoint(replies()) as boss:
        up = asking(short, server, boss, log)
        try:
            wait_until(lambda: bool(server.requests), 30, f"the workers are asked: {up.err}")
            time.sleep(moment.uniform(0, 1.2))
            up.look()
            kill(victim(up, name))
            deadline = time.monotonic() + 15
            while up.process.poll() is None and time.monotonic() < deadline:
                up.look()
                time.sleep(0.05)
            assert up.process.poll() is not None, f"not ended after 15 s: {up.err}"
            up.nothing_left()
            run = check_logs(log, answers)
            if name in ("keeper", "interpreter"):
                assert (up.process.returncode, up.out) == (0, "recovered\n"), up.err
                assert [each.status for each in run.cells] == ["lost", "final"]
            elif name == "launcher":
                assert up.process.returncode == 3, up.err
                assert run.end is not None
            assert "Traceback" not in up.err
        finally:
            up.end()


@pytest.mark.parametrize("seed", [0, 1])  # 1.0 s and 0.2 s after the first request
@pytest.mark.parametrize("name", VICTIMS)
def test_a_death_leaves_nothing_and_loses_nothing(short: Path, name: str, seed: int) -> None:
    kill_once(short, name, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 13))
@pytest.mark.parametrize("name", VICTIMS)
def test_more_deaths(short: Path, name: str, seed: int) -> None:
    kill_once(short, name, seed)


TURN = """
answers = worker_batch([f'{turn}.{{i}}' for i in range(6)])
print(worker('saw ' + ' '.join(answers)))
"""


def turns(request: dict[str, Any]) -> str:
    """Turn after turn of one small cell."""
    turn = sum(message["role"] == "assistant" for message in request["messages"])
    return cell(TURN.format(turn=turn))


def killed_between_turns(short: Path, seed: int) -> None:
    answers = Answers()
    log = short / "log"
    with endpoint(answers) as server, endpoint(turns) as boss:
        up = asking(short, server, boss, log, turns=1000)
        try:
            wait_until(lambda: len(boss.requests) > 1, 30, f"the second turn: {up.err}")
            time.sleep(random.Random(seed).uniform(0, 2))
            up.look()
            kill(up.pid)
            up.process.wait(10)
            up.nothing_left()
            # The endpoints hear no more: what they were asked is all that was sent.
            run = check_logs(log, answers)
        finally:
            up.end()
    assert answers.quoted
    logged = [(message.role, message.content) for message in run.messages]
    for request in boss.requests:
        told = [(message["role"], message["content"]) for message in request["messages"]]
        assert told == logged[: len(told)], "sent to the supervisor, but not logged"
    for turn in run.turns[1:]:  # what it was told after a turn is what that turn's cell printed
        shown = run.cells[turn.turn - 2].stdout
        assert shown.strip() in run.messages[turn.request_messages - 1].content


def test_what_either_model_was_told_is_in_the_log(short: Path) -> None:
    killed_between_turns(short, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_what_either_model_was_told_ten_times(short: Path, seed: int) -> None:
    killed_between_turns(short, seed)


def sweep(short: Path) -> None:
    """What is left of a driver is removed by the next one that starts."""
    code = "from distill.supervisor import driver; driver.shared().close()"
    subprocess.run([sys.executable, "-c", code], env=environment(short), check=True, timeout=30)
    assert rests(short) == []


MORE_DELAYS = [pytest.param(delay_s, marks=pytest.mark.slow) for delay_s in (0.15, 0.45, 0.8)]


@pytest.mark.parametrize("delay_s", [0.0, 0.3, 0.6, 1.0, *MORE_DELAYS])
def test_the_driver_dies_while_it_starts(short: Path, delay_s: float) -> None:
    with endpoint(Answers()) as server, endpoint(replies()) as boss:
        up = asking(short, server, boss, short / "log")
        try:
            deadline = time.monotonic() + delay_s
            while time.monotonic() < deadline:
                up.look()
                time.sleep(0.01)
            up.look()
            kill(up.pid)
            up.process.wait(10)
            wait_until(lambda: not left(up.family), 10, f"left {up.family}")
            # A directory that was just made, without a launcher yet, is swept at the next start.
            time.sleep(0.3)
            for path in rests(short):
                assert "distill-" in path
            sweep(short)
        finally:
            up.end()


def test_an_idle_engine_whose_launcher_dies_ends(short: Path) -> None:
    with endpoint(Answers()) as server:
        up = Command(short, "up", "--worker-url", server.url, "--worker", "scripted")
        try:
            up.wait_for("The engine is up")
            kill(victim(up, "launcher"))
            wait_until(lambda: not is_alive(up.pid), 10, "nobody could reach it any more")
            up.process.wait(5)
            up.nothing_left()
            assert up.process.returncode == 3
            assert "Traceback" not in up.err
        finally:
            up.end()


def test_the_whole_trio_dies_at_once(short: Path) -> None:
    answers = Answers()
    with endpoint(answers) as server, endpoint(replies()) as boss:
        up = asking(short, server, boss, short / "log")
        try:
            wait_until(lambda: len(server.requests) > 20, 30, "the workers are asked")
            for pid in [up.pid, *up.look()]:
                kill(pid)
            up.process.wait(10)
            wait_until(lambda: not left(up.family), 10, "all dead")
            check_logs(short / "log", answers)
        finally:
            up.end()
    sweep(short)


def test_a_frozen_interpreter_does_not_hold_up_the_end(short: Path) -> None:
    """SIGSTOP is no death: Ctrl-C must still end everything."""
    answers = Answers()
    with endpoint(answers) as server, endpoint(replies()) as boss:
        up = asking(short, server, boss, short / "log")
        try:
            wait_until(lambda: bool(server.requests), 30, "the workers are asked")
            up.look()
            for name in ("interpreter", "keeper"):
                kill(victim(up, name), 19)
            began_s = time.monotonic()
            up.interrupt()
            up.process.wait(10)
            up.nothing_left()
            assert time.monotonic() - began_s < 6
            assert up.process.returncode == 130
        finally:
            up.end()
