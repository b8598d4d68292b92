"""A driver killed in a batch on real worker servers: resumed, it asks what it has no answer to."""

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.supervisor.fleet import SILENCE_LOOK_S
from distill.supervisor.workers import SILENCE_LIMIT_S
from distill.traces import read, records, validate
from tests.distill.commands import QUESTION, TEXT, Command
from tests.distill.scripted import Endpoint, cell, endpoint
from tests.engine_stand_in.spec import MODEL, worker_spec
from tests.engine_stand_in.vllm.tokens import answer_to, encode
from tests.supervisor.processes import below, kill, wait_until

BATCHES = 2
CODE = """
import hashlib
answers = []
for batch in range({batches}):
    answers += worker_batch([f'{{batch}}, {{item}}' for item in range({size})], chat=False)
FINAL([len(answers), hashlib.sha256(chr(10).join(answers).encode()).hexdigest()])
"""


def prompts(size: int) -> list[str]:
    return [f"{batch}, {item}" for batch in range(BATCHES) for item in range(size)]


def undisturbed(size: int) -> str:
    """The answer of a run that nobody disturbs."""
    answers = "\n".join(map(answer_to, prompts(size)))
    return json.dumps([BATCHES * size, hashlib.sha256(answers.encode()).hexdigest()])


class Trial:
    """One run in a folder of its own; what its engines are asked is noted outside the log."""

    def __init__(self, folder: Path, boss: Endpoint, latency_s: float) -> None:
        self.log, self._asked, self._folder = folder / "log", folder / "asked", folder
        self._text = folder / "text.txt"
        self._text.write_text(TEXT)
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
        self._words = ["--worker", str(MODEL), "--cores", cores]
        self._words += ["--supervisor", "scripted", "--base-url", boss.url]
        own = worker_spec("", latency_s=latency_s).env
        self._env: dict[str, Any] = {
            name: own[name] for name in own if name.startswith("STAND_IN_")
        }
        self._env |= {"PYTHONPATH": own["PYTHONPATH"], "STAND_IN_ASKED": str(self._asked)}

    def up(self, *words: str) -> Command:
        return Command(self._folder, "up", *self._words, *words, **self._env)

    def engine(self) -> Command:
        """One that stays up; it has no supervisor of its own."""
        return Command(self._folder, "up", *self._words[:4], **self._env)

    def ask(self) -> Command:
        return self.up("-c", str(self._text), "-q", QUESTION, "--log-dir", str(self.log))

    def asked(self) -> Counter[str]:
        """Checksums of what the engines were asked since the last look, but for their probes."""
        lines = self._asked.read_text().splitlines() if self._asked.exists() else []
        self._asked.unlink(missing_ok=True)
        probe = str(encode("Hello")[-2:])
        return Counter(line for line in lines if line != probe)

    def answered(self) -> Counter[str]:
        """Checksums of the prompts whose answers are in the log."""
        (run,) = read(self.log).runs.values()
        calls = [call for call in run.calls if call.response is not None]
        return Counter(str(encode(call.prompt)[-2:]) for call in calls if call.source != "reused")


@pytest.fixture(scope="module")
def boss() -> Iterator[dict[int, Endpoint]]:
    """Supervisors by the size of the batches that they ask for."""
    with contextlib.ExitStack() as stack:
        yield {size: stack.enter_context(endpoint(replying(size))) for size in (1000, 5000)}


def replying(size: int) -> Callable[[object], str]:
    code = cell(CODE.format(batches=BATCHES, size=size))
    return lambda _: code


def killed_and_resumed(folder: Path, boss: Endpoint, size: int, seed: int) -> None:
    trial = Trial(folder, boss, latency_s=0.02)
    moment_s = random.Random(seed).uniform(0.0, size / 1000)
    up = trial.ask()
    try:
        log = trial.log / records.SUPERVISOR_LOG
        wait_until(lambda: log.exists() and '"message"' in log.read_text(), 60, f"begun: {up.err}")
        time.sleep(moment_s)
        up.look()
        kill(up.pid)
        up.process.wait(10)
        up.nothing_left()
    finally:
        up.end()
    kept, asked = trial.answered(), trial.asked()
    wanted = Counter(str(encode(prompt)[-2:]) for prompt in prompts(size))
    assert kept <= asked <= wanted
    (cut,) = read(trial.log).runs.values()
    if cut.end is not None:
        assert kept == wanted, "it had ended"
        return
    resumed = trial.up("--resume", str(trial.log))
    done = resumed.done(120)
    resumed.nothing_left()
    resumed.end()
    assert (done.code, done.out.strip()) == (0, undisturbed(size)), done.err
    again = trial.asked()
    assert again == wanted - kept
    told = re.search(r"([\d,]+) were in the log, ([\d,]+) sent since", done.err)
    assert told is not None, done.err
    numbers = [int(number.replace(",", "")) for number in told.groups()]
    print(f"seed {seed}: killed after {moment_s:.2f} s, {numbers[0]} kept, {numbers[1]} sent")  # noqa: T201
    assert numbers == [kept.total(), again.total()]
    assert trial.answered() == wanted
    trace, problems = validate(trial.log)
    assert problems == []
    (run,) = trace.runs.values()
    assert run.end is not None
    assert run.end.worker_calls == wanted.total()


def test_a_killed_driver_asks_only_the_rest(short: Path, boss: dict[int, Endpoint]) -> None:
    killed_and_resumed(short, boss[1000], 1000, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_twenty_killed_drivers(short: Path, boss: dict[int, Endpoint], seed: int) -> None:
    killed_and_resumed(short, boss[5000], 5000, seed)


@pytest.mark.slow
def test_a_driver_that_stood_still_takes_no_worker_for_frozen(
    short: Path, boss: dict[int, Endpoint]
) -> None:
    """As after Ctrl-Z and fg: its workers have not been silent, it has not listened."""
    up = Trial(short, boss[1000], latency_s=0.0).engine()
    try:
        up.wait_for("The engine is up")
        for _ in range(2):
            before = below(up.pid, "worker_server")
            kill(up.pid, signal.SIGSTOP)
            time.sleep(SILENCE_LIMIT_S + 1)
            kill(up.pid, signal.SIGCONT)
            time.sleep(2 * SILENCE_LOOK_S)
            assert set(before) <= set(below(up.pid, "worker_server"))
    finally:
        up.end()
