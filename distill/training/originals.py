"""Recorded runs whose code is to be done again, and the way that each took through its code."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import InputError
from distill.labels import Labels
from distill.recorded_results import FAILED, label_of, recorded_in
from distill.supervisor.ledger import content_hash
from distill.supervisor.recorded import CUT_OFF
from distill.supervisors import RecordedSupervisor
from distill.traces import Run, records
from distill.traces.naming import check_runs, named_folders
from distill.traces.reading import calls_in, read_runs


@dataclass(frozen=True, slots=True)
class Way:
    """How the cells of a run ended, and what they asked its worker, in no order.

    Two runs of one code took the same way where these are equal: what one was asked, the other was.
    """

    cells: tuple[str, ...]
    asked: frozenset[str]


@dataclass(frozen=True, slots=True)
class Original:
    """A recorded run that can be done again; ``label`` is its expected answer, None: unknown.

    Of its calls ``run`` has those alone that a function of the host made: all others are made anew.
    """

    run: Run
    way: Way
    label: Any

    @property
    def name(self) -> str:
        """``FOLDER#RUN``, wherever one is."""
        return f"{self.run.folder.resolve()}#{self.run.id}"

    @property
    def task(self) -> str | None:
        """The label of the run itself: which task it was at."""
        return None if self.run.start is None else self.run.start.label


@dataclass(frozen=True, slots=True)
class Originals:
    """The runs that were named, in the order written; ``left_out`` says of the others why."""

    runs: dict[str, Original]
    left_out: dict[str, str]


def originals(named: Iterable[str | Path], labels: Labels) -> Originals:
    """The runs of these folders (or ``FOLDER#RUN``) that are nobody's sub-run.

    Raises InputError for what is no log folder, for a run that it lacks, and where none is left.
    """
    found: dict[str, Original] = {}
    left_out: dict[str, str] = {}
    for folder, only in named_folders(named).items():
        runs = _runs_of(folder, only)
        counted = {each.id: each for each in recorded_in(folder, frozenset(only or ())).runs}
        texts: dict[str, str | None] = {}
        for run in runs:
            why = _why_not(run, run.id in counted, texts)
            if why is not None:
                left_out[f"{folder}#{run.id}"] = why
        kept = [run for run in runs if f"{folder}#{run.id}" not in left_out]
        ways = ways_of(folder, kept)
        for run in kept:
            label = label_of(labels, counted[run.id])
            found.setdefault(run.id, Original(run, ways[run.id], label))
    if not found:
        raise InputError("\n".join(["no run there can be done again", *_told(left_out)]))
    return Originals(found, left_out)


def _told(left_out: dict[str, str]) -> list[str]:
    return [f"{name}: {why}" for name, why in left_out.items()]


def _runs_of(folder: Path, only: Collection[str] | None) -> list[Run]:
    begun = {run.id: run for run in read_runs(folder).runs.values() if run.start is not None}
    own = {name: run for name, run in begun.items() if run.start and run.start.parent is None}
    check_runs(folder, only or (), own)
    return [run for name, run in own.items() if only is None or name in only]


def _why_not(run: Run, is_counted: bool, texts: dict[str, str | None]) -> str | None:
    """Why a run can't be done again, None if it can. ``texts`` are those known to be whole."""
    assert run.start is not None
    if run.end is None:
        return "it was cut off (--resume goes on with it)"
    if run.end.status in FAILED:
        return f"it has {'failed' if run.end.status == 'failed' else 'been cancelled'}"
    if not is_counted:
        return "an evaluation counts another in its place"
    try:
        if not RecordedSupervisor(run).run.turns:
            return "its log has no reply of its supervisor"
        text = run.start.context.sha256
        if text not in texts:
            run.context()
            texts[text] = None
    except InputError as error:
        return str(error)
    except LookupError as error:
        return f"its log lacks what its supervisor said (message {error})"
    return None


def ways_of(folder: Path, runs: Sequence[Run]) -> dict[str, Way]:
    """The way of each of a folder's runs; what primitives asked is entered into their ``calls``."""
    by_id = {run.id: run for run in runs}
    inner = {run.id: {(each.cell, each.call) for each in run.primitives} for run in runs}
    asked: defaultdict[str, set[str]] = defaultdict(set)
    for call in calls_in(folder, []):
        if call.run not in by_id:
            continue
        if (call.cell, call.call) in inner[call.run]:
            by_id[call.run].calls.append(call)
        else:
            asked[call.run].add(_asked(call))
    return {run.id: Way(_endings(run), frozenset(asked[run.id])) for run in runs}


def _endings(run: Run) -> tuple[str, ...]:
    return tuple(cell.status for cell in run.cells if cell.lost != CUT_OFF)


def _asked(call: records.Call) -> str:
    """Equal for calls that were asked the same, by whatever template it was put to the model."""
    return content_hash(call.prompt if call.messages is None else call.messages)
