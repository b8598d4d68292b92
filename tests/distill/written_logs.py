"""Logs of many runs in no time: written by the journal's own hand, as runs would have."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.supervisor.journal import Journal
from distill.supervisor.recorded import CUT_OFF
from distill.traces import records
from distill.traces.records import Model, Producer, TokenUsage

DRIVER = Producer("driver", "driver", 1)
T = 1_700_000_000.0
TINY = Model("tiny")


@dataclass(frozen=True)
class Told:
    """What a log says of a run, and of its one call, if it has a ``model``."""

    id: str
    answer: Any = "yes"
    task: str | None = "a"
    query: str = "Is it so?"
    text: str = "It is so."
    supervisor: str = "boss"
    worker: str = "tiny"
    status: Any = "final"
    model: Model | None = TINY
    asks: str | None = None
    dollars: float | None = 0.25
    tokens: int = 100
    elapsed_s: float = 2.0
    has_end: bool = True
    parent: records.ParentCall | None = None
    redacted: tuple[str, ...] = ()
    cells: tuple[tuple[int, Any], ...] = ()
    """The turn and the status of each; the first turn is there where there is one of it.

    ``cut off`` is as a driver that goes on writes what the one before it left running.
    """


def write(folder: Path, *runs: Told) -> Path:
    """Append these runs to the logs of a folder."""
    with contextlib.closing(Journal(folder)) as journal:
        for run in runs:
            context, _ = journal.store_context(run.text)
            journal.supervisor(_start(run, context))
            if run.cells:
                journal.supervisor(_first_turn(run))
            for number, (turn, status) in enumerate(run.cells, 1):
                journal.supervisor(_cell(run, number, turn, status))
            if run.model is not None:
                journal.worker([_call(run, run.model)])
            if run.has_end:
                journal.supervisor(_end(run))
    return folder


def _start(run: Told, context: records.ContextRef) -> records.RunStart:
    return records.RunStart(
        t=T, run=run.id, producer=DRIVER, query=run.query, context=context, options={}, versions={},
        supervisor=run.supervisor, worker=run.worker, label=run.task, parent=run.parent,
        redacted=run.redacted,
    )  # fmt: skip


def _first_turn(run: Told) -> records.Turn:
    return records.Turn(
        t=T, run=run.id, producer=DRIVER, turn=1, request_messages=2, reply_index=2,
        model=run.supervisor, usage=TokenUsage(10, 5), elapsed_s=0.1, finish_reason="stop",
        cells=sum(turn == 1 for turn, _ in run.cells), forced=False, attempt=1, queue_s=0.0,
    )  # fmt: skip


def _cell(run: Told, number: int, turn: int, status: Any) -> records.Cell:
    is_cut = status == "cut off"
    return records.Cell(
        t=T, run=run.id, producer=DRIVER, turn=turn, cell=number, code="1",
        status="lost" if is_cut else status, stdout="", stderr="", elapsed_s=0.1, cpu_s=0.1,
        error=None, lost=CUT_OFF if is_cut else None, variables=(),
    )  # fmt: skip


def _call(run: Told, model: Model) -> records.Call:
    return records.Call(
        t=T + 1, run=run.id, producer=DRIVER, id=f"{run.id}.1.0", turn=1, cell=1, call=1, item=0,
        function="worker", attempt=1, prompt="?", response="!", finish_reason="stop",
        usage=TokenUsage(run.tokens, 0), sampling={} if run.asks is None else {"model": run.asks},
        model=model,
    )  # fmt: skip


def _end(run: Told) -> records.RunEnd:
    return records.RunEnd(
        t=T + 2, run=run.id, producer=DRIVER, status=run.status, answer=run.answer, iterations=2,
        supervisor_usage=TokenUsage(10, 5), worker_usage=TokenUsage(run.tokens, 0), worker_calls=1,
        elapsed_s=run.elapsed_s, supervisor_dollars=run.dollars, worker_dollars=0.0,
        error="it broke" if run.status == "failed" else None,
    )  # fmt: skip


def scores_in(folder: Path) -> list[records.Score]:
    """The records of scores, in the order written."""
    from distill.traces.reading import lines

    found = lines(folder, records.SUPERVISOR_LOG)
    return [record for _, record in found if isinstance(record, records.Score)]
