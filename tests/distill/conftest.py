"""Every run of this folder is logged, and its log is held against the schema and the joins."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distill import RunResult, run
from distill.traces import Run, read, validate
from tests.distill.scripted import SMALL, Supervisor, Worker, run_bounded

Ask = Callable[..., RunResult]


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """A log folder; whatever was logged there must be whole."""
    folder = tmp_path / "log"
    yield folder
    if (folder / "supervisor.jsonl").exists():
        _, problems = validate(folder)
        assert problems == []


@pytest.fixture
def ask(log: Path) -> Ask:
    """``run`` with scripted models, short limits, and the test's log folder."""

    def ask(
        *replies: Any, context: Any = "some text", worker: Any = None, **options: Any
    ) -> RunResult:
        supervisor = options.pop("supervisor", None) or Supervisor(*replies)
        options = {"log_dir": log, "limits": SMALL, **options}
        timeout_s = options.pop("timeout_s", 25.0)
        result: RunResult = run_bounded(
            lambda: run("What?", context, supervisor, worker or Worker(), **options), timeout_s
        )
        return result

    return ask


@pytest.fixture
def logged(log: Path) -> Callable[[], Run]:
    """The only run of the test, as its log tells it."""

    def logged() -> Run:
        (only,) = read(log).runs.values()
        return only

    return logged


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: a socket's path ends at 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="dst-", ignore_cleanup_errors=True) as name:
        yield Path(name)
