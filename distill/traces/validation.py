"""Check the files of a run: every line against the schema, every join, every hash."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from distill.traces.reading import Run, Trace, read


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a log folder: where, and what."""

    where: str
    what: str


def validate(folder: str | Path) -> tuple[Trace, list[Problem]]:
    """Read ``folder`` and name all that is wrong with it. Raises InputError: no log there."""
    trace = read(folder)
    problems = [Problem(f"{s.file}:{s.line}", s.reason) for s in trace.skipped]
    for run in trace.runs.values():
        problems += _run_problems(run)
    return trace, problems


def _run_problems(run: Run) -> list[Problem]:
    where = f"run {run.id}"
    if run.start is None:
        return [Problem(where, "has no run_start")]
    problems = []
    if run.end is None:
        problems.append(Problem(where, "has no run_end: it was cut off"))
    problems += [Problem(where, text) for text in _join_problems(run)]
    path = run.folder / run.start.context.file
    if not path.is_file():
        problems.append(Problem(where, f"its context {run.start.context.file} is missing"))
    elif hashlib.sha256(path.read_bytes()).hexdigest() != run.start.context.sha256:
        problems.append(Problem(where, f"its context {run.start.context.file} was changed"))
    return problems


def _join_problems(run: Run) -> list[str]:
    cells = {cell.cell for cell in run.cells}
    turns = {turn.turn for turn in run.turns}
    batches = {(batch.cell, batch.call): batch.items for batch in run.batches}
    found = []
    # The open cell of a run that was cut off has calls but no record of its own.
    if run.end is not None and run.end.status in ("final", "forced", "unanswered"):
        orphans = sum(1 for call in run.calls if call.cell not in cells)
        if orphans:
            found.append(f"{orphans} calls have no cell")
        loose = sum(1 for call in run.calls if (call.cell, call.call) not in batches)
        if loose:
            found.append(f"{loose} calls have no batch")
    # Before the first turn comes the prelude of a dialect.
    astray = sum(1 for cell in run.cells if cell.turn and cell.turn not in turns)
    if astray:
        found.append(f"{astray} cells have no turn")
    if [message.index for message in run.messages] != list(range(len(run.messages))):
        found.append("the messages are not numbered 0, 1, 2, …")
    doubled = len(run.calls) - len({call.id for call in run.calls})
    if doubled:
        found.append(f"{doubled} calls are logged twice")
    return found
