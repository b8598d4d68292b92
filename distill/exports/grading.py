"""Which runs there are and how good they were: from their logs, and results files beside them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from distill.errors import InputError
from distill.exports.graded import GradedRun
from distill.exports.reading import Source
from distill.traces import Run, records
from distill.traces.last_scores import last_scores
from distill.traces.results import NOTHING_TOLD, TaskResult, results_beside, told_by

NO_START = "it has no start record"
DOUBLE = "the same run in another folder"


def graded_runs(
    sources: Sequence[Source], results: Iterable[Path]
) -> tuple[list[GradedRun], Counter[str]]:
    """All runs that were named, with their sub-runs and scores; what can be none, by reason.

    ``results`` are results files of ``--tasks`` beyond those beside the folders. Raises InputError
    for a file that holds no results.
    """
    found: dict[str, GradedRun] = {}
    left_out: Counter[str] = Counter()
    for run in (run for source in sources for run in _named(source)):
        if run.start is None or run.id in found:
            left_out[NO_START if run.start is None else DOUBLE] += 1
        else:
            found[run.id] = GradedRun(run)
    wanted = list(found.values())
    for run in (run for source in sources for run in source.runs.values()):
        if run.start is not None:
            found.setdefault(run.id, GradedRun(run))
    known = {id_: graded.run for id_, graded in found.items()}
    for graded in found.values():
        graded.above = [found[run] for run in _above(graded.run, known)]
    by_run = _results_by_run(sources, results)
    for graded in found.values():
        if graded.root is graded:
            _take_scores(graded, by_run.get(graded.run.id))
    for graded in found.values():
        graded.scores = graded.root.scores
    return wanted, left_out


def _named(source: Source) -> Iterator[Run]:
    """The runs of a folder that were named, by their own id or by that of their root."""
    for run in source.runs.values():
        root = [run.id, *_above(run, source.runs)][-1]
        if source.only is None or not source.only.isdisjoint((run.id, root)):
            yield run


def _above(run: Run, known: Mapping[str, Run]) -> list[str]:
    """The ids of the runs whose sub-run it is, that which asked for it first."""
    ids = [run.id]
    while (start := run.start) is not None and (parent := start.parent) is not None:
        if parent.run in ids or parent.run not in known:  # a log can say anything
            break
        ids.append(parent.run)
        run = known[parent.run]
    return ids[1:]


def _results_by_run(sources: Sequence[Source], files: Iterable[Path]) -> dict[str, TaskResult]:
    """What results files say of these runs: those beside the folders, and then these files."""
    told = NOTHING_TOLD
    for source in sources:
        told = told.and_then(results_beside(source.folder.resolve()))
    for path in files:
        told = told.and_then(told_by(path))
    return told.results


def _take_scores(graded: GradedRun, result: TaskResult | None) -> None:
    """The last score of each scorer, and the last label."""
    graded.is_task = result is not None
    said: list[records.Score | TaskResult] = [*graded.run.scores]
    said += [result] if result is not None else []
    for each in sorted(said, key=lambda each: each.t):
        graded.label = graded.label if each.label is None else each.label
    for scorer, last in last_scores(graded.run.scored, result).items():
        if last.value is not None:
            graded.scores[scorer] = last.value


def decide(runs: Sequence[GradedRun], scorer: str | None, *, must: bool) -> None:
    """Give each run the score of the scorer that decides: this one, or the only one there is.

    Where there are several and none is named, none decides, which ``must`` not be. Raises
    InputError.
    """
    names = scorers_of(runs)
    if scorer is not None:
        check_scorer(scorer, names)
    elif len(names) > 1 and must:
        raise InputError(
            f"these runs have scores by {', '.join(names)}: say with --scorer NAME which decides"
        )
    chosen = scorer or (names[0] if len(names) == 1 else None)
    for graded in runs:
        graded.score = graded.scores.get(chosen) if chosen is not None else None


def scorers_of(runs: Iterable[GradedRun]) -> list[str]:
    """Those that have scored any of them."""
    return sorted({name for graded in runs for name in graded.scores})


def check_scorer(name: str, names: Sequence[str]) -> None:
    """Raise InputError if it is none of these."""
    if name not in names:
        raise InputError(
            f"no run has a score by {name!r}: there are {', '.join(names) or 'none'} "
            "(`distill score` adds them)"
        )
