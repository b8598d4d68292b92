"""Worker calls that are answered with what was given before."""

import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from distill.errors import WorkerError
from distill.protocol import worker_link as wire
from distill.supervisor import background, driver
from distill.supervisor.answer_cache import (
    ASKED_FOR_LIMIT,
    RUN_LIMIT_BYTES,
    AnswerCache,
    Known,
    answer_key,
)
from distill.supervisor.backends import HandlerBackend
from distill.supervisor.calls import WorkerCalls
from distill.supervisor.journal import Journal
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.run_log import RunLog
from distill.traces import records
from tests.distill.scripted import Worker
from tests.engine_stand_in.spec import calls_in

PROMPTS = [str(number) for number in range(1000)]
CARD = wire.ModelCard("m", "w", "t", "c", "bf16", "cpu", "vllm", "1", 8192, "raw_logprobs")


@pytest.fixture
def calls(tmp_path: Path) -> Iterator[WorkerCalls]:
    """The calls of a run that keeps its answers."""
    host = driver.shared()
    cache = AnswerCache(None, RUN_LIMIT_BYTES)

    async def made() -> tuple[Journal, WorkerCalls]:
        journal = host.open_journal(tmp_path)
        backend, log = HandlerBackend(host, Worker()), RunLog(journal, "r")
        return journal, WorkerCalls(host, backend, log, SpanIndex("some text"), cache=cache)

    journal, calls = background.wait(made())
    yield calls
    host.loop.call_soon_threadsafe(host.release_journal, journal)


def each_turn(loop: Any, look: Callable[[], None]) -> threading.Event:
    """Look at every turn of the loop, until the event is set."""
    stop = threading.Event()

    def turn() -> None:
        look()
        if not stop.is_set():
            loop.call_soon(turn)

    loop.call_soon_threadsafe(turn)
    return stop


def test_the_loop_goes_on_while_a_batch_is_answered_from_before(
    calls: WorkerCalls, tmp_path: Path
) -> None:
    first = calls.worker_batch(PROMPTS)
    seen: set[int] = set()
    stop = each_turn(driver.shared().loop, lambda: seen.add(calls.tally.cached))
    try:
        assert calls.worker_batch(PROMPTS) == first
    finally:
        stop.set()
    steps = sorted(seen)
    assert max(b - a for a, b in itertools.pairwise(steps)) <= wire.BATCH_REQUESTS
    assert calls.tally.cached == len(PROMPTS)
    cached = [call for call in calls_in(tmp_path) if call.source == "cached"]
    assert sorted(call.item for call in cached) == list(range(len(PROMPTS)))


def test_a_run_that_ends_meanwhile_answers_and_logs_no_more(
    calls: WorkerCalls, tmp_path: Path
) -> None:
    calls.worker_batch(PROMPTS)

    def end() -> None:
        if calls.tally.cached:
            calls.cancel()

    stop = each_turn(driver.shared().loop, end)
    try:
        with pytest.raises(WorkerError, match="ended"):
            calls.worker_batch(PROMPTS)
    finally:
        stop.set()
    cached = [call for call in calls_in(tmp_path) if call.source == "cached"]
    assert 0 < len(cached) == calls.tally.cached < len(PROMPTS)


def test_what_was_asked_for_is_noted_on_the_way(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    cache = AnswerCache(path, RUN_LIMIT_BYTES)
    known = Known("prompt", "response", "stop", records.Model("m"))
    keys = [str(number) for number in range(ASKED_FOR_LIMIT)]
    cache.keep((key, known) for key in keys)
    with sqlite3.connect(path) as file:
        (kept,) = file.execute("SELECT max(used) FROM answers").fetchone()
        assert all(cache.find(key) == known for key in keys)
        (used,) = file.execute("SELECT min(used) FROM answers").fetchone()
    assert used > kept
    cache.close()


def test_an_answer_that_may_fill_the_window_is_known_for_that_window_only() -> None:
    small = msgspec.structs.replace(CARD, window_tokens=512)
    open_end = wire.Request("r-1.0", 1, wire.Sampling(), prompt="hello")
    bounded = msgspec.structs.replace(open_end, sampling=wire.Sampling(max_tokens=9))
    assert answer_key(open_end, CARD, "m") != answer_key(open_end, small, "m")
    assert answer_key(bounded, CARD, "m") == answer_key(bounded, small, "m")
