"""What an evaluation came to, kept so that it can be held against another, task by task."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from distill.errors import ModelError
from distill.intervals import Interval, wilson
from distill.standings import total
from distill.traces.results import TaskResult


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Of one supervisor with one version of the worker, at tasks that have labels.

    ``scores`` has each task's mean score over its attempts, from 0 to 1; an attempt that failed is
    a wrong one, since a worker may well be what it failed of; one that nobody could score is left
    out. ``accuracy`` is their mean, ``interval`` its 95 % interval (Wilson's; a task counts once).
    Tokens and seconds are sums over the runs; ``wall_s`` is that of the process that finished it.
    """

    supervisor: str
    scores: dict[str, float]
    accuracy: float
    interval: Interval
    runs: int
    failed: int
    unanswered: int
    supervisor_tokens: int
    worker_calls: int
    worker_input_tokens: int
    worker_output_tokens: int
    run_s: float
    wall_s: float

    @property
    def tasks(self) -> int:
        """Those that have a score."""
        return len(self.scores)


def figures_of(
    results: Sequence[TaskResult], supervisor: str, wall_s: float, *, may_fail: bool = False
) -> Figures:
    """The figures of these results.

    Raises ModelError where none has a score, and where all runs failed, unless they ``may_fail``.
    """
    scores = scores_by_task(results)
    errors = [each.error for each in results if each.error is not None]
    if errors and len(errors) == len(results) and not may_fail:
        raise ModelError(
            f"all {len(results):,} runs of {supervisor} failed; the first: {errors[0].kind}: "
            f"{errors[0].detail}"
        )
    if not scores:
        raise ModelError(f"no run of {supervisor} could be scored, so nothing can be compared")
    accuracy = sum(scores.values()) / len(scores)
    worker = total(each.worker_usage for each in results)
    boss = total(each.supervisor_usage for each in results)
    return Figures(
        supervisor=supervisor,
        scores=scores,
        accuracy=accuracy,
        interval=wilson(accuracy, len(scores)),
        runs=len(results),
        failed=len(errors),
        unanswered=sum(each.error is None and each.answer is None for each in results),
        supervisor_tokens=boss.input_tokens + boss.output_tokens,
        worker_calls=sum(each.worker_calls for each in results),
        worker_input_tokens=worker.input_tokens,
        worker_output_tokens=worker.output_tokens,
        run_s=sum(each.elapsed_s for each in results),
        wall_s=wall_s,
    )


def scores_by_task(results: Sequence[TaskResult]) -> dict[str, float]:
    """The mean score of each task's attempts; a failed one counts as wrong."""
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for each in results:
        if each.error is not None:
            scores[each.task].append(0.0)
        elif isinstance(each.score, float):
            scores[each.task].append(each.score)
    return {task: sum(values) / len(values) for task, values in sorted(scores.items())}


def differences(one: Mapping[str, float], other: Mapping[str, float]) -> list[float]:
    """Score by score, at the tasks that both have: ``one`` less ``other``."""
    return [one[task] - other[task] for task in one if task in other]


def told(figures: Figures) -> dict[str, Any]:
    """As a report has them: without the single scores."""
    found: dict[str, Any] = msgspec.to_builtins(figures)
    del found["scores"]
    return found | {"tasks": figures.tasks}
