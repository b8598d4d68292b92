"""A driver killed at any moment: what is asked again is what was open, and all else is the same.

The models are behind HTTP, in this process: what they were asked is known apart from any log.
"""

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from distill import RunResult, resume
from distill.traces import Run, validate
from tests.distill.recordings import (
    CALLS,
    CELLS,
    Functions,
    asked_of,
    cells_of,
    echoed,
    record,
    scripted_reply,
    the_run,
)
from tests.distill.scripted import Endpoint, endpoint, prompt_of
from tests.distill.test_resume import WITH_TESTS

LATENCY_S = 0.005
CHILD = """
import sys, pathlib
from tests.distill.recordings import Functions, record
record(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), Functions())
"""


@dataclass
class Models:
    """Both endpoints, and a moment at which somebody wants to be called."""

    boss: Endpoint
    hand: Endpoint
    at_request: int = 0
    heard: int = 0
    reached: threading.Event = field(default_factory=threading.Event)

    def count(self, answer: Callable[[dict[str, Any]], Any]) -> Callable[[Any], Any]:
        """``answer``, with each request counted when it comes."""
        lock = threading.Lock()

        def counted(request: dict[str, Any]) -> Any:
            with lock:
                self.heard += 1
                if self.heard == self.at_request:
                    self.reached.set()
            time.sleep(LATENCY_S)
            return answer(request)

        return counted

    def begin(self, at_request: int = 0) -> None:
        """Forget what was asked."""
        self.boss.requests.clear()
        self.hand.requests.clear()
        self.at_request, self.heard = at_request, 0
        self.reached.clear()

    def prompts(self) -> Counter[str]:
        return Counter(map(prompt_of, self.hand.requests))


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with endpoint(scripted_reply(CELLS)) as boss, endpoint(echoed) as hand:
        both = Models(boss, hand)
        boss.answer, hand.answer = both.count(boss.answer), both.count(hand.answer)
        yield both


@dataclass
class Undisturbed:
    result: RunResult
    run: Run
    prompts: Counter[str]


@pytest.fixture(scope="module")
def undisturbed(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    models.begin()
    result = record(models.boss.url, models.hand.url, folder, Functions())
    assert sum(models.prompts().values()) == CALLS >= 200
    assert len(models.boss.requests) == len(CELLS) >= 10
    return Undisturbed(result, the_run(folder), models.prompts())


def finished(told: Run) -> list[tuple[Any, ...]]:
    """Code, status, output, variables and exception of the cells that were not killed.

    Not the traceback: it names the cell, whose number is another after one that was cut off.
    """
    return [
        (each[2:6], each[7], each[8] and (*each[8][:2], each[8][3]))
        for each in cells_of(told)
        if each[3] != "lost"
    ]


def kept(told: Run) -> Counter[str]:
    """Prompts whose answers are in the log."""
    return Counter(
        call.prompt for call in told.calls if call.response is not None and call.source == "sampled"
    )


def killed(models: Models, folder: Path, seed: int) -> None:
    """Begin the run in a process of its own; SIGKILL it at a random request, or soon after."""
    dice = random.Random(seed)
    models.begin(dice.randint(1, CALLS + len(CELLS)))
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, models.boss.url, models.hand.url, str(folder)], env=WITH_TESTS
    )
    assert models.reached.wait(120)
    time.sleep(dice.uniform(0, 4 * LATENCY_S))
    child.send_signal(signal.SIGKILL)
    child.wait()
    time.sleep(4 * LATENCY_S)  # what was on its way has arrived, or never will


def check(models: Models, undisturbed: Undisturbed, folder: Path, seed: int) -> None:
    killed(models, folder, seed)
    cut = the_run(folder)
    had, asked = kept(cut), models.prompts()
    assert had <= asked <= undisturbed.prompts
    if cut.end is not None:
        return  # the last request was the run's last: it had ended before it was killed
    models.begin()
    result = resume(
        folder, asked_of(models.boss.url), asked_of(models.hand.url), primitives=Functions().given()
    )
    again = models.prompts()
    del again["bad"]  # it had failed: worth another try
    del (wanted := Counter(undisturbed.prompts))["bad"]
    assert again == wanted - had
    assert len(models.boss.requests) == len(CELLS) - len(cut.turns)
    assert result.answer == undisturbed.result.answer
    assert result.evidence.answers == undisturbed.result.evidence.answers
    told = the_run(folder)
    assert finished(told) == finished(undisturbed.run)
    assert validate(folder)[1] == []
    open_then = asked - had
    print(f"seed {seed}: {had.total()} kept, {open_then.total()} open, {again.total()} sent")  # noqa: T201


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_driver(
    models: Models, undisturbed: Undisturbed, tmp_path: Path, seed: int
) -> None:
    check(models, undisturbed, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, *range(100, 119)])
def test_twenty_killed_drivers(
    models: Models, undisturbed: Undisturbed, tmp_path: Path, seed: int
) -> None:
    check(models, undisturbed, tmp_path, seed)
