"""Tasks put to a version of the worker, scored, and kept: what is finished is not asked again."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distill.display import Display
from distill.evaluation import evaluate
from distill.evaluator import EvaluationProgress
from distill.models import ModelHandler
from distill.tasks import Task
from distill.traces.results import results_in
from distill.training.figures import Figures, figures_of
from distill.training.lineage import Version
from distill.training.markers import found, written
from distill.training.workers import Workers

RESULTS, LOGS, FIGURES = ".jsonl", ".logs", ".figures.json"
"""What lies where an evaluation was told to be, after its name; the last when it has ended."""
IDS, LOGPROBS = "ids", "ids+logprobs"
"""What of each completion is recorded."""

Supervisors = Callable[[str], ModelHandler | str]
"""The supervisor of a name."""


class Examiner:
    """``out`` is the loop's folder, where versions have their adapters."""

    def __init__(
        self,
        out: Path,
        workers: Workers,
        supervisors: Supervisors,
        display: Display,
        *,
        scorer: str,
        concurrency: int,
    ) -> None:
        self._out = out
        self._workers = workers
        self._supervisors = supervisors
        self._display = display
        self._scorer = scorer
        self._concurrency = concurrency

    def figures(
        self,
        what: str,
        place: Path,
        tasks: Sequence[Task],
        supervisor: str,
        version: Version,
        *,
        record: str = IDS,
        may_fail: bool = False,
    ) -> Figures:
        """What the tasks come to, asked by this supervisor of this version, at ``place``.

        ``what`` is for people. Where all runs ``may_fail`` that is the version's doing, and an
        accuracy of 0. Raises what ``evaluate`` raises, ModelError: no run has a score.
        """
        if (known := known_figures(place)) is not None:
            return known
        started_s = time.monotonic()
        self._display.tasks(f"{what} · getting ready")
        worker, options = self._use(version)
        results = place.with_name(place.name + RESULTS)
        done = evaluate(
            tasks,
            self._supervisors(supervisor),
            worker,
            concurrency=self._concurrency,
            scorer=self._scorer,
            results=results,
            log_dir=place.with_name(place.name + LOGS),
            retry_errors=_has_only_errors(results),
            on_progress=lambda progress: self._display.tasks(_line(what, progress)),
            record=record,
            **options,
        )
        wall_s = time.monotonic() - started_s
        made = figures_of(done.results, supervisor, wall_s, may_fail=may_fail)
        written(_marker(place), made)
        self._display.line(told(what, made))
        return made

    def _use(self, version: Version) -> tuple[Any, dict[str, Any]]:
        adapter = None if version.adapter is None else self._out / version.adapter
        return self._workers.use(adapter, version.adapter_sha256)


def known_figures(place: Path) -> Figures | None:
    """Those of an evaluation that has ended there."""
    return found(_marker(place), Figures)


def _marker(place: Path) -> Path:
    return place.with_name(place.name + FIGURES)


def _has_only_errors(results: Path) -> bool:
    """Whether nothing came of it when it was last tried: then it was no worker's fault."""
    return results.is_file() and all(each.error is not None for each in results_in(results))


def _line(what: str, progress: EvaluationProgress) -> str:
    parts = [f"{what} {progress.done}/{progress.total}"]
    if progress.accuracy is not None:
        parts.append(f"accuracy so far {progress.accuracy:.2f}")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    return " · ".join([*parts, f"{progress.tokens:,} tokens", f"{progress.elapsed_s:.0f} s"])


def told(what: str, figures: Figures) -> str:
    """What came of it, in a line."""
    low, high = figures.interval
    failed = f", {figures.failed} failed" if figures.failed else ""
    return (
        f"{what}: accuracy {figures.accuracy:.3f} (95 %: {low:.3f}–{high:.3f}) at "
        f"{figures.tasks:,} tasks{failed}, {figures.wall_s:.0f} s"
    )
