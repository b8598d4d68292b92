"""Which runs there are and how good they were: from their logs, and results files beside them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from distill.errors import InputError
from distill.exports.graded import GradedRun
from distill.exports.reading import Source
from distill.traces import records
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
    for source in sources:
        for run in source.runs.values():
            if run.start is not None and run.id not in found:
                found[run.id] = GradedRun(run)
            elif source.only is None or run.id in source.only:
                left_out[NO_START if run.start is None else DOUBLE] += 1
    for graded in found.values():
        graded.above = _above(graded, found)
    by_run = _results_by_run(sources, results)
    for graded in found.values():
        if graded.root is graded:
            _take_scores(graded, by_run.get(graded.run.id))
    for graded in found.values():
        graded.scores = graded.root.scores
    wanted = [graded for graded in found.values() if _is_named(graded, sources)]
    return wanted, left_out


def _above(graded: GradedRun, found: dict[str, GradedRun]) -> list[GradedRun]:
    above: list[GradedRun] = []
    seen = {graded.run.id}
    while (parent := graded.start.parent) is not None and parent.run in found:
        if parent.run in seen:  # a log can say anything
            break
        seen.add(parent.run)
        graded = found[parent.run]
        above.append(graded)
    return above


def _is_named(graded: GradedRun, sources: Sequence[Source]) -> bool:
    for source in sources:
        if source.folder == graded.run.folder:
            only = source.only
            return only is None or graded.run.id in only or graded.root.run.id in only
    return False


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
