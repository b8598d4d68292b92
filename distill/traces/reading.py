"""Read the logs of a folder back: runs, their turns, cells, calls and conversations."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from distill.errors import InputError
from distill.traces import records
from distill.traces.contexts import read_context
from distill.traces.last_scores import last_scores
from distill.traces.naming import check_log, folder_and_run
from distill.traces.results import TaskResult, results_beside


@dataclass(frozen=True, slots=True)
class Skipped:
    """A line that is no record: torn by a crash, or damaged."""

    file: str
    line: int
    reason: str


@dataclass(slots=True)
class Run:
    """One run, its records in the order written. ``end`` is None if it was cut off.

    ``calls`` are there if worker.jsonl was read as well (``read``; not ``Logs.runs``).
    ``sub_runs`` are those that its cells asked for; they stand in the trace beside it. ``told`` is
    what the results of an evaluation beside the folder say of it.
    """

    id: str
    folder: Path
    start: records.RunStart | None = None
    end: records.RunEnd | None = None
    final: records.Final | None = None
    processes: list[records.Process] = field(default_factory=list)
    events: list[records.Event] = field(default_factory=list)
    messages: list[records.Message] = field(default_factory=list)
    turns: list[records.Turn] = field(default_factory=list)
    compactions: list[records.Compaction] = field(default_factory=list)
    cells: list[records.Cell] = field(default_factory=list)
    batches: list[records.Batch] = field(default_factory=list)
    primitives: list[records.Primitive] = field(default_factory=list)
    calls: list[records.Call] = field(default_factory=list)
    scores: list[records.Score] = field(default_factory=list)
    sub_runs: list["Run"] = field(default_factory=list)
    told: TaskResult | None = None

    @property
    def scored(self) -> dict[str, records.Score]:
        """What counts of its scores: the last of each scorer, in the log or in the results."""
        return last_scores({score.scorer: score for score in self.scores}, self.told)

    @property
    def answer(self) -> Any:
        """The answer: what FINAL recorded, or what the last turn gave; None if there is none."""
        if self.final is not None:
            return self.final.value
        return self.end.answer if self.end is not None else None

    def conversation(self, turn: int | None = None) -> list[dict[str, str]]:
        """The messages of the run, or those that were sent to get the reply of ``turn``.

        Raises InputError for a turn that the log lacks, or whose messages it lacks.
        """
        sent = [{"role": each.role, "content": each.content} for each in self.messages]
        if turn is None:
            return sent
        told = next((each for each in self.turns if each.turn == turn), None)
        if told is None:
            raise InputError(f"run {self.id} has no turn {turn}")
        sent = sent[: told.request_messages]
        if told.compactions > len(self.compactions):
            raise InputError(f"the log of run {self.id} lacks how its conversation was shortened")
        if told.compactions:
            made = self.compactions[told.compactions - 1]
            sent = [*sent[: made.opening], *map(dict, made.added), *sent[made.kept_from :]]
        return sent

    def context(self) -> Any:
        """The text asked about (str, list or dict).

        Raises InputError if it is not there, or is not what it was.
        """
        if self.start is None:
            raise InputError(f"run {self.id} has no start record")
        try:
            return read_context(self.folder, self.start.context)
        except InputError as error:
            raise InputError(f"the context of run {self.id}: {error}") from error


@dataclass(slots=True)
class Trace:
    """All runs of a folder by id, the events of no run, and what could not be read.

    ``call_counts`` is how many calls worker.jsonl has, by run.
    """

    runs: dict[str, Run]
    events: list[records.Event]
    skipped: list[Skipped]
    call_counts: Counter[str] = field(default_factory=Counter)


def lines(
    folder: Path, log: str, limit_bytes: int | None = None
) -> Iterator[tuple[int, records.AnyRecord | Skipped]]:
    """Every line of one log with its number, as a record or as what was wrong with it.

    None if there is no such log. With ``limit_bytes`` the log ends there: a run that is still being
    written is read twice alike.
    """
    if not (folder / log).is_file():
        return
    decode = msgspec.json.Decoder(records.LOG_RECORDS[log]).decode
    with (folder / log).open("rb") as file:
        for number, line in enumerate(_first(file, limit_bytes), 1):
            try:
                record = decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                if line.strip():
                    yield number, Skipped(log, number, str(error))
                continue
            if record.v > records.SCHEMA_VERSION:
                yield number, Skipped(log, number, f"schema version {record.v} is newer than this")
            elif record.run is None and not isinstance(record, records.Event):
                yield number, Skipped(log, number, "it is of no run, as only an event can be")
            else:
                yield number, records.whole(record) if isinstance(record, records.Call) else record


def _first(file: BinaryIO, limit_bytes: int | None) -> Iterator[bytes]:
    """The lines of the first bytes of a file; the last one may be cut off."""
    if limit_bytes is None:
        yield from file
        return
    while limit_bytes and (line := file.readline(limit_bytes)):
        limit_bytes -= len(line)
        yield line


def calls_in(
    folder: Path, skipped: list[Skipped], limit_bytes: int | None = None
) -> Iterator[records.Call]:
    """The worker calls of a folder, one in memory at a time; ``skipped`` gets what is no record.

    ``limit_bytes`` as for ``lines``.
    """
    for _, record in lines(folder, records.WORKER_LOG, limit_bytes):
        if isinstance(record, Skipped):
            skipped.append(record)
        elif isinstance(record, records.Call):
            yield record


_LISTS: dict[type[records.Record], str] = {
    records.Process: "processes",
    records.Event: "events",
    records.Message: "messages",
    records.Turn: "turns",
    records.Compaction: "compactions",
    records.Cell: "cells",
    records.Batch: "batches",
    records.Primitive: "primitives",
    records.Call: "calls",
    records.Score: "scores",
}


def read(folder: str | Path) -> Trace:
    """Both logs of ``folder``, joined by run. Raises InputError if there is no log there.

    All of it is in memory; for runs of many calls there is ``Logs``.
    """
    trace = read_runs(folder)
    _enter(trace, Path(folder), records.WORKER_LOG)
    trace.call_counts.update({run.id: len(run.calls) for run in trace.runs.values()})
    return trace


def read_runs(folder: str | Path, limit_bytes: int | None = None) -> Trace:
    """What supervisor.jsonl says: all but the calls. Raises InputError if it is not there.

    ``limit_bytes`` as for ``lines``.
    """
    folder = Path(folder)
    whole, run = folder_and_run(folder)
    if run is not None:
        raise InputError(
            f"{folder}: all runs of a folder are read; read {whole}, and take .runs[{run!r}] of it"
        )
    check_log(folder)
    trace = Trace({}, [], [])
    _enter(trace, folder, records.SUPERVISOR_LOG, limit_bytes)
    _join_sub_runs(trace.runs)
    told = results_beside(folder.resolve())
    for each in trace.runs.values():
        each.told = told.results.get(each.id)
    return trace


def _enter(trace: Trace, folder: Path, log: str, limit_bytes: int | None = None) -> None:
    for _, record in lines(folder, log, limit_bytes):
        if isinstance(record, Skipped):
            trace.skipped.append(record)
        elif record.run is None:
            if isinstance(record, records.Event):
                trace.events.append(record)
        else:
            add(trace.runs.setdefault(record.run, Run(record.run, folder)), record)


def _join_sub_runs(runs: dict[str, Run]) -> None:
    begun: set[str] = set()
    for run in runs.values():
        parent = run.start.parent if run.start is not None else None
        # A sub-run begins after the run that asked: whatever a log says, there is no circle.
        if parent is not None and parent.run in begun:
            runs[parent.run].sub_runs.append(run)
        begun.add(run.id)


def add(run: Run, record: records.AnyRecord) -> None:
    """Enter a record of the run."""
    match record:
        case records.RunStart():
            run.start = record
        case records.RunEnd():
            run.end = record
        case records.Final():
            run.final = run.final or record
        case _:
            getattr(run, _LISTS[type(record)]).append(record)
