"""Listeners of the caller's that raise: a run does not end of them, and says so once."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import distill
from distill import OpenAIHandler, RunResult
from tests.distill.scripted import SMALL, Supervisor, Worker, cell, endpoint


def raises(_: Any) -> None:
    raise RuntimeError("a listener of the caller's")


def told(caplog: pytest.LogCaptureFixture, name: str) -> int:
    return sum(f"{name} raised" in record.getMessage() for record in caplog.records)


def test_on_progress_that_raises(
    ask: Callable[..., RunResult], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "distill"):
        result = ask(cell("worker_batch(['a', 'b'])"), cell("FINAL(1)"), on_progress=raises)
    assert (result.answer, result.worker_calls) == (1, 2)
    assert told(caplog, "on_progress") == 1


def test_on_text_that_raises(
    ask: Callable[..., RunResult], caplog: pytest.LogCaptureFixture
) -> None:
    with endpoint(lambda _: cell("FINAL(1)")) as server, caplog.at_level(logging.ERROR):
        supervisor = OpenAIHandler("scripted", server.url, "k")
        assert ask(supervisor=supervisor, on_text=raises).answer == 1
    assert told(caplog, "on_text") == 1
    assert not any(record.name == "asyncio" for record in caplog.records)


def test_an_evaluation_whose_listener_raises(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = [{"id": name, "query": "?", "context": "x", "label": 1} for name in "ab"]
    supervisor = Supervisor(cell("FINAL(1)"), cell("FINAL(1)"))
    with caplog.at_level(logging.ERROR, "distill"):
        done = distill.evaluate(
            tasks, supervisor, Worker(), log_dir=tmp_path / "log", results=tmp_path / "r.jsonl",
            limits=SMALL, on_progress=raises, concurrency=1,
        )  # fmt: skip
    assert done.summary.right == 2.0
    assert told(caplog, "on_progress") == 1
