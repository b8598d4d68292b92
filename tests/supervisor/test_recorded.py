"""What a recorded run's calls had got, where some of its lines can't be read."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from distill import resume, run
from distill.errors import ModelError
from distill.supervisor.ledger import Ledger
from distill.supervisor.recorded import fill_ledger
from distill.traces import read, records
from tests.distill.scripted import Supervisor, Worker, cell

PROMPTS = ["a", "b", "c"]


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """The log of a run that failed, with its second worker call unreadable."""
    replies = (cell(f"x = worker_batch({PROMPTS})"), cell("y = worker('d')"), ModelError("down"))
    with pytest.raises(ModelError):
        run("What?", "some text", Supervisor(*replies), Worker(), log_dir=tmp_path)
    log = tmp_path / records.WORKER_LOG
    lines = log.read_bytes().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if msgspec.json.decode(line).get("item") == 1)
    lines[place] = lines[place].replace(b'"logprobs":null', b"").replace(b'"call"', b'"call', 1)
    log.write_bytes(b"".join(lines))
    return tmp_path


def given(run: Any, cell: int) -> Any:
    """The recorded answer to the worker call of this cell."""
    ledger = Ledger()
    fill_ledger(ledger, run, {cell: cell})
    (batch,) = (batch for batch in run.batches if batch.cell == cell)
    return ledger.give(cell, batch.key)


def test_answers_don_t_shift_where_a_line_is_missing(damaged: Path) -> None:
    trace = read(damaged)
    (told,) = trace.runs.values()
    assert len(trace.skipped) == 1
    assert len(told.calls) == 3
    assert given(told, 1) is None
    answer = given(told, 2)
    assert answer is not None
    assert answer.value == "<d>"


def test_a_resume_says_what_it_could_not_restore(damaged: Path) -> None:
    worker = Worker()
    boss = Supervisor(cell("print('not run')"), cell("FINAL('x' in globals())"))
    assert resume(damaged, boss, worker).answer is False
    assert "cell 1 went otherwise, it called worker_batch as it had not before" in boss.shown(2)
    assert worker.prompts == []
