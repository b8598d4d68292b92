"""Which runs there are and how good they were: from their logs, and results files beside them."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from distill.errors import InputError
from distill.exports.graded import GradedRun
from distill.exports.reading import Source
from distill.task_results import TaskResult
from distill.traces import Run


def graded_runs(
    sources: Sequence[Source], results: Iterable[Path], scorer: str | None
) -> tuple[list[GradedRun], dict[str, int]]:
    """All runs that were named, with their sub-runs and scores; what can be none, by reason.

    ``results`` are results files of ``--tasks`` beyond those beside the folders. Raises InputError
    where it is open which scorer decides.
    """
    found: dict[str, GradedRun] = {}
    left_out = {"it has no start record": 0, "the same run in another folder": 0}
    for source in sources:
        for run in source.runs.values():
            if run.start is None:
                left_out["it has no start record"] += 1
            elif run.id in found:
                left_out["the same run in another folder"] += 1
            else:
                found[run.id] = GradedRun(run)
    for graded in found.values():
        graded.root = _root(graded, found)
    by_run = _results_by_run([*results, *_results_beside(sources)])
    for graded in found.values():
        if graded.root is graded:
            _take_scores(graded, by_run.get(graded.run.id))
    for graded in found.values():
        graded.scores = graded.root.scores
    wanted = [graded for graded in found.values() if _is_named(graded, sources)]
    _decide(wanted, scorer)
    return wanted, {reason: count for reason, count in left_out.items() if count}


def _root(graded: GradedRun, found: dict[str, GradedRun]) -> GradedRun:
    seen = set()
    while (parent := graded.start.parent) is not None and parent.run in found:
        if graded.run.id in seen:  # a log can say anything
            break
        seen.add(graded.run.id)
        graded = found[parent.run]
    return graded


def _is_named(graded: GradedRun, sources: Sequence[Source]) -> bool:
    for source in sources:
        if source.folder == graded.run.folder:
            only = source.only
            return only is None or graded.run.id in only or graded.root.run.id in only
    return False


def _results_beside(sources: Sequence[Source]) -> Iterator[Path]:
    """Where ``distill run --tasks`` and ``evaluate`` put the results of the logs in a folder."""
    for source in sources:
        folder = source.folder.resolve()
        for path in (folder.with_suffix(".jsonl"), folder / "results.jsonl"):
            if folder.suffix == ".logs" or path.parent == folder:
                yield path


def _results_by_run(files: Iterable[Path]) -> dict[str, TaskResult]:
    """The results of these files, by their run: the last line about a run counts."""
    decoder = msgspec.json.Decoder(TaskResult)
    found: dict[str, TaskResult] = {}
    for path in files:
        if not path.is_file():
            continue
        with path.open("rb") as lines:
            for line in lines:
                try:
                    result = decoder.decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    continue  # torn, or a file of this name with something else in it
                if result.run_id is not None:
                    found[result.run_id] = result
    return found


def _take_scores(graded: GradedRun, result: TaskResult | None) -> None:
    """Of one scorer the last score counts; one that could not be told is none."""
    run: Run = graded.run
    told = [(each.t, each.scorer, each.value) for each in run.scores]
    labels = [each.label for each in run.scores]
    if result is not None:
        graded.is_task = True
        labels.append(result.label)
        if result.scorer is not None and isinstance(result.score, float):
            told.append((result.t, result.scorer, result.score))
    graded.label = next((each for each in reversed(labels) if each is not None), None)
    for _, scorer, value in sorted(told, key=lambda each: each[0]):
        if value is None:
            graded.scores.pop(scorer, None)
        else:
            graded.scores[scorer] = value


def _decide(runs: Sequence[GradedRun], scorer: str | None) -> None:
    names = sorted({name for graded in runs for name in graded.scores})
    if scorer is None and len(names) > 1:
        raise InputError(
            f"these runs have scores by {', '.join(names)}: say with --score NAME which decides"
        )
    if scorer is not None and scorer not in names:
        raise InputError(
            f"no run has a score by {scorer!r}: there are {', '.join(names) or 'none'} "
            "(`distill score` adds them)"
        )
    chosen = scorer or (names[0] if names else None)
    for graded in runs:
        graded.score = graded.scores.get(chosen) if chosen is not None else None
