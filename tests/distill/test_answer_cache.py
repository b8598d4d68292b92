"""The answer cache of a run, with a worker as a user writes it."""

from pathlib import Path
from typing import Any

import pytest

from distill import RunResult, run
from distill.errors import InputError
from distill.traces import read
from tests.distill.scripted import Supervisor, Worker, cell

CODE = cell("""
first = worker_batch(["a", "b"])
again = worker_batch(["b", "a", "c"])
samples = [worker("a", temperature=1.0) for _ in range(2)]
FINAL([first, again, samples])
""")


def asked(folder: Path, worker: Worker, **options: Any) -> RunResult:
    return run("What?", "some text", Supervisor(CODE), worker, log_dir=folder, **options)


def test_equal_calls_of_a_run_are_asked_once_if_it_is_wanted(tmp_path: Path) -> None:
    numbers = iter(range(100))
    worker = Worker(lambda prompt: f"{prompt}{next(numbers)}")
    off = asked(tmp_path / "off", worker)
    assert (off.worker_calls, off.worker_cached) == (7, 0)
    cached = asked(tmp_path / "run", worker, answer_cache="run")
    assert (cached.worker_calls, cached.worker_cached) == (5, 2)
    (a, b), (b_again, a_again, _), samples = cached.answer
    assert (a_again, b_again) == (a, b)
    assert len({a, *samples}) == 3
    (told,) = read(tmp_path / "run").runs.values()
    assert told.start is not None
    assert told.end is not None
    assert told.start.options["answer_cache"] == "run"
    assert (told.end.worker_calls, told.end.worker_cached) == (5, 2)
    assert sum(call.source == "cached" for call in told.calls) == 2
    again = asked(tmp_path / "another", worker, answer_cache="run")
    assert again.worker_cached == 2, "another run does not know what this one has asked"


@pytest.mark.parametrize(
    ("caching", "why"), [("shared", "nobody knows whether"), ("always", "off, run, shared")]
)
def test_a_cache_that_can_not_be(tmp_path: Path, caching: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        asked(tmp_path, Worker(), answer_cache=caching)
