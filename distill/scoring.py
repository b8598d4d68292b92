"""``score``: recorded runs are scored, later and elsewhere than they were made.

::

    log folders ──► runs that have ended ──► lanes: scorer, maybe a judge ──► score records
                          ▲                                                       │
        labels ───────────┘           standings, pairs ◄── results ◄──────────────┘
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distill.errors import InputError
from distill.judge_budget import BudgetedJudge
from distill.labels import Labels, LabelsSource, read_labels
from distill.prices import Prices, price_table
from distill.progress import shielded
from distill.recorded_results import (
    Recorded,
    Workers,
    all_runs,
    label_of,
    recorded_in,
    results_of,
)
from distill.scorers import Sample, Scorer, scorer_from
from distill.scoring_lanes import Scores, Scoring, ScoringProgress
from distill.standings import compared
from distill.supervisor import background
from distill.supervisor.call_threads import CallThreads
from distill.task_options import CONCURRENCY, CONCURRENCY_LIMIT
from distill.traces.naming import named_folders

Runs = str | Path | Sequence[str | Path]
"""Log folders, or FOLDER#RUN for one run of one."""


async def score_on_loop(
    runs: Runs,
    scorer: str | Callable[[Sample], Any] | Scorer | None = None,
    *,
    labels: LabelsSource | None = None,
    again: bool = False,
    concurrency: int = CONCURRENCY,
    max_dollars: float | None = None,
    prices: Prices | None = None,
    on_progress: Callable[[ScoringProgress], None] | None = None,
) -> Scores:
    """Score recorded runs, and append that to their logs; what all their scores come to.

    ``runs`` are log folders, or FOLDER#RUN. Runs that ``scorer`` (see ``distill.scorers``) has
    scored against the same label already are not scored again, unless ``again``; without a scorer
    none is. Labels are those of ``labels``: a JSONL file of ``label`` with ``id`` (that of a task,
    which is the label of its runs) or ``run``, or a dict by these; else those of the results that
    an evaluation wrote beside the logs; else those of earlier scores. A judge is asked
    ``concurrency`` at a time and may cost ``max_dollars``; what was scored until then stays.

    A run that can't be scored, and a folder that runs are writing to, is told and stops no other.
    Raises InputError for folders, labels or a scorer that can't be used, before anything is scored;
    ModelError for a judge that is not there, MachineError for a disk that refuses.
    """
    if not 1 <= concurrency <= CONCURRENCY_LIMIT:
        raise InputError(f"concurrency is 1 to {CONCURRENCY_LIMIT:,}, not {concurrency}")
    folders, threads = _folders(runs), CallThreads()
    known = Labels() if labels is None else await threads.call(read_labels, labels)
    found = await threads.call(_recorded, folders)
    if labels is not None:
        _check_named(known, found)
    told, name = Scores(idle_labels=_idle(known, found)), None
    if scorer is not None:
        chosen, judge = await threads.call(_chosen, scorer, max_dollars, prices)
        _check_labels(chosen, known, found)
        name, tell = chosen.name, shielded(on_progress, "on_progress")
        await Scoring(threads, chosen, judge, known, again, told, tell).run(found, concurrency)
        found = await threads.call(_recorded, folders)
    await threads.call(_conclude, told, found, known, name)
    return told


def _chosen(
    spec: str | Callable[[Sample], Any] | Scorer, max_dollars: float | None, prices: Prices | None
) -> tuple[Scorer, BudgetedJudge | None]:
    """The scorer; its judge, if it has one, keeps to the budget. Raises InputError, ModelError."""
    scorer = scorer_from(spec)
    if scorer.judge is None:
        if max_dollars is not None:
            raise InputError("--max-dollars is what a judge may cost, and this scorer asks none")
        return scorer, None
    judge = BudgetedJudge(scorer.judge, max_dollars, price_table(prices))
    return dataclasses.replace(scorer, judge=judge), judge


def _folders(runs: Runs) -> dict[Path, frozenset[str]]:
    """The log folders, each with the runs that were named; none: all. Raises InputError."""
    named = [runs] if isinstance(runs, str | Path) else list(runs)
    if not named:
        raise InputError("name the log folders of the runs to be scored")
    return {
        folder.resolve(): frozenset(only or ()) for folder, only in named_folders(named).items()
    }


def _recorded(folders: dict[Path, frozenset[str]]) -> dict[Path, Recorded]:
    return {folder: recorded_in(folder, runs) for folder, runs in folders.items()}


def _check_named(labels: Labels, found: dict[Path, Recorded]) -> None:
    """Raise InputError where labels were given, and no run is named by them."""
    runs = list(all_runs(found))
    if runs and all(labels.of(run.id, run.start.label) is None for run in runs):
        first = runs[0]
        label = "no label" if first.start.label is None else f"the label {first.start.label!r}"
        raise InputError(
            "the labels name none of these runs, neither by `run` nor by `id`: the first one is "
            f"run {first.id}, with {label}"
        )


def _idle(labels: Labels, found: dict[Path, Recorded]) -> list[str]:
    runs = list(all_runs(found))
    tasks = {run.start.label for run in runs if run.start.label is not None}
    return labels.naming_none({run.id for run in runs}, tasks)


def _check_labels(scorer: Scorer, labels: Labels, found: dict[Path, Recorded]) -> None:
    runs = [run for run in all_runs(found) if not run.has_failed]
    if not runs:
        raise InputError("no run there has ended with something to be scored")
    if scorer.needs_label and not any(label_of(labels, run) is not None for run in runs):
        raise InputError(
            f"{scorer.name} holds answers against labels, and no run has one: give --labels FILE, "
            'a line each like {"id": "the label of the run", "label": "the expected answer"}; a '
            "judge needs none"
        )


def _conclude(
    told: Scores, found: dict[Path, Recorded], labels: Labels, scorer: str | None
) -> None:
    """What all scores come to: of one scorer, or of each that there is."""
    runs = list({run.id: run for run in all_runs(found)}.values())  # a folder may be another's copy
    for recorded in found.values():
        told.left_out["were cut off"] += recorded.cut_off
        told.left_out["were done again"] += recorded.done_again
        told.unreadable_lines += recorded.unreadable
    told.left_out = +told.left_out
    told.redacted = sum(bool(run.start.redacted) for run in runs)
    names = dict.fromkeys(name for run in runs for name in run.scorers)
    workers = Workers(runs)
    ran = {run.id: run.first_code_ran for run in runs if run.first_code_ran is not None}
    for name in names if scorer is None else [scorer]:
        results = results_of(runs, workers, name, labels)
        told.results[name] = results
        told.comparisons[name] = compared(results, ran)


score = background.waiting(score_on_loop)
score.__name__ = score.__qualname__ = "score"
score_on_loop.__qualname__ = "score"
ascore = background.arriving(score_on_loop)
ascore.__name__ = ascore.__qualname__ = "ascore"
