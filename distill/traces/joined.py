"""The logs of one or several folders with their records joined; calls are read as they are asked
for, so a run of any size is gone through in little memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distill.traces import records
from distill.traces.naming import check_runs, named_folders
from distill.traces.reading import Run, Skipped, calls_in, read_runs


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a call's prompt that is a part of the text: what it says, and where it stands."""

    span: records.Span
    text: str


@dataclass(frozen=True, slots=True)
class JoinedTurn:
    """A turn, its reply as it is in the conversation (None if the log lacks it), its cells."""

    record: records.Turn
    run: Run
    reply: records.Message | None
    cells: tuple[records.Cell, ...]


@dataclass(frozen=True, slots=True)
class JoinedCell:
    """A cell, the turn that wrote it (None for the prelude of a dialect), and what it called."""

    record: records.Cell
    run: Run
    turn: records.Turn | None
    batches: tuple[records.Batch, ...]
    primitives: tuple[records.Primitive, ...]


@dataclass(frozen=True, slots=True)
class JoinedCall:
    """A worker call with what it belongs to; None is what the log lacks, as of a cell cut off.

    Where a primitive asked workers more than once for one call of the cell, ``batch`` is the first.
    """

    record: records.Call
    run: Run
    turn: records.Turn | None
    cell: records.Cell | None
    batch: records.Batch | None

    def chunks(self) -> list[Chunk]:
        """The parts of the text that the prompt holds, in its order."""
        prompt = self.record.prompt
        return [
            Chunk(span, prompt[span.prompt_start : span.prompt_start + span.end - span.start])
            for span in self.record.spans
        ]


class Joins:
    """What the records of one run belong to, by their numbers; of equal numbers the first counts.

    ``run`` is one whose supervisor.jsonl has been read.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.turns: dict[int, records.Turn] = {}
        self.cells: dict[int, records.Cell] = {}
        self.batches: dict[tuple[int, int], records.Batch] = {}
        for turn in run.turns:
            self.turns.setdefault(turn.turn, turn)
        for cell in run.cells:
            self.cells.setdefault(cell.cell, cell)
        for batch in run.batches:
            self.batches.setdefault((batch.cell, batch.call), batch)

    def call(self, record: records.Call) -> JoinedCall:
        """A call of the run, joined."""
        return JoinedCall(
            record,
            self.run,
            self.turns.get(record.turn),
            self.cells.get(record.cell),
            self.batches.get((record.cell, record.call)),
        )


class Logs:
    """The runs that are named: each a log folder, for all its runs, or ``FOLDER#RUN``.

    Of one folder at a time, supervisor.jsonl is held in memory and worker.jsonl read line by line.
    ``skipped`` has the lines, of the last time around, that are no records. Raises InputError for
    what is no log folder; the iterators do for a run that its folder lacks.
    """

    def __init__(self, *named: str | Path) -> None:
        self.skipped: list[Skipped] = []
        self._wanted = named_folders(named)

    def runs(self) -> Iterator[Run]:
        """Each run in the order in which they began, without its calls."""
        self.skipped = []
        for folder in self._wanted:
            yield from self._runs(folder).values()

    def turns(self) -> Iterator[JoinedTurn]:
        """Each turn of each run, in the order written."""
        for run in self.runs():
            messages = {message.index: message for message in run.messages}
            cells: dict[int, list[records.Cell]] = {}
            for cell in run.cells:
                cells.setdefault(cell.turn, []).append(cell)
            for turn in run.turns:
                reply = messages.get(turn.reply_index)
                yield JoinedTurn(turn, run, reply, tuple(cells.get(turn.turn, ())))

    def cells(self) -> Iterator[JoinedCell]:
        """Each cell of each run, in the order written."""
        for run in self.runs():
            turns = {turn.turn: turn for turn in run.turns}
            batches: dict[int, list[records.Batch]] = {}
            primitives: dict[int, list[records.Primitive]] = {}
            for batch in run.batches:
                batches.setdefault(batch.cell, []).append(batch)
            for primitive in run.primitives:
                primitives.setdefault(primitive.cell, []).append(primitive)
            for cell in run.cells:
                yield JoinedCell(
                    cell,
                    run,
                    turns.get(cell.turn),
                    tuple(batches.get(cell.cell, ())),
                    tuple(primitives.get(cell.cell, ())),
                )

    def calls(self) -> Iterator[JoinedCall]:
        """Each worker call, in the order in which they ended; the runs of a folder are mixed."""
        self.skipped = []
        for folder in self._wanted:
            joins = {id_: Joins(run) for id_, run in self._runs(folder).items()}
            for call in calls_in(folder, self.skipped):
                if call.run in joins:
                    yield joins[call.run].call(call)

    def _runs(self, folder: Path) -> dict[str, Run]:
        trace = read_runs(folder)
        self.skipped += trace.skipped
        wanted = self._wanted[folder]
        if wanted is None:
            return trace.runs
        check_runs(folder, wanted, trace.runs)
        return {id_: run for id_, run in trace.runs.items() if id_ in wanted}
