"""What supervisors and workers came to: right answers with an interval, tokens, dollars, time.

An evaluation has one such standing, a log folder as many as there are pairs of models in it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from msgspec.structs import astuple

from distill.intervals import Interval, Paired, effective_count, paired, wilson
from distill.traces.records import TokenUsage
from distill.traces.results import TaskResult

NO_LOG: Mapping[str, bool] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Of the attempts of one ``supervisor`` with one ``worker`` that have ended, each counted once.

    ``right`` is the sum of the scores, ``accuracy`` their mean over the ``scored`` attempts, with
    its 95 % ``interval`` (Wilson's, for as many answers as ``effective_count`` says);
    ``accuracy_of_all`` is over all attempts that were to be scored, a failed one being wrong. None
    where there is none.
    ``code_ran`` is the share of runs whose first reply had code that ran to its end, of those whose
    supervisor replied, with its interval; None where no log was read.
    ``run_s`` adds up the runs. ``dollars`` are None where one run's are not known; a judge's tokens
    are in no run, nor in the dollars.
    """

    supervisor: str
    worker: str
    tasks: int
    ended: int
    answered: int
    unanswered: int
    failed: int
    scored: int
    right: float
    accuracy: float | None
    interval: Interval | None
    accuracy_of_all: float | None
    iterations: int
    supervisor_usage: TokenUsage
    worker_usage: TokenUsage
    judge_usage: TokenUsage | None
    worker_calls: int
    dollars: float | None
    dollars_per_right: float | None
    run_s: float
    code_ran: float | None = None
    code_ran_interval: Interval | None = None

    @property
    def name(self) -> str:
        """Both models."""
        return f"{self.supervisor} × {self.worker}"

    @property
    def dollars_per_run(self) -> float | None:
        """None where nobody knows."""
        return None if self.dollars is None or not self.ended else self.dollars / self.ended


def standing_of(
    results: Sequence[TaskResult],
    supervisor: str,
    worker: str,
    code_ran: Mapping[str, bool] = NO_LOG,
) -> Standing:
    """The standing of two models with these results.

    ``code_ran`` says of runs, by their ids, whether the code of the first reply ran to its end.
    """
    scores = [each.score for each in results if isinstance(each.score, float)]
    failed = sum(each.error is not None for each in results)
    unanswered = sum(each.error is None and each.answer is None for each in results)
    judged = [each.judge_usage for each in results if each.judge_usage is not None]
    dollars, right = dollars_of(results), sum(scores)
    accuracy = right / len(scores) if scores else None
    ran, ran_interval = _share_that_ran(results, code_ran)
    return Standing(
        supervisor=supervisor,
        worker=worker,
        tasks=len({each.asked for each in results}),
        ended=len(results),
        answered=len(results) - unanswered - failed,
        unanswered=unanswered,
        failed=failed,
        scored=len(scores),
        right=right,
        accuracy=accuracy,
        interval=None if accuracy is None else wilson(accuracy, effective_count(_sizes(results))),
        accuracy_of_all=right / _to_score(results) if scores else None,
        iterations=sum(each.iterations for each in results),
        supervisor_usage=total(each.supervisor_usage for each in results),
        worker_usage=total(each.worker_usage for each in results),
        judge_usage=total(judged) if judged else None,
        worker_calls=sum(each.worker_calls for each in results),
        dollars=dollars,
        dollars_per_right=dollars / right if dollars is not None and right else None,
        run_s=sum(each.elapsed_s for each in results),
        code_ran=ran,
        code_ran_interval=ran_interval,
    )


def _share_that_ran(
    results: Iterable[TaskResult], code_ran: Mapping[str, bool]
) -> tuple[float | None, Interval | None]:
    known: defaultdict[str, list[bool]] = defaultdict(list)
    for each in results:
        if (ran := code_ran.get(each.run_id or "")) is not None:
            known[each.asked].append(ran)
    if not known:
        return None, None
    replied = sum(map(len, known.values()))
    share = sum(map(sum, known.values())) / replied
    return share, wilson(share, effective_count(map(len, known.values())))


def _sizes(results: Iterable[TaskResult]) -> list[int]:
    """How many scores each task has."""
    return [len(scores) for scores in _by_task(results).values()]


def _by_task(results: Iterable[TaskResult]) -> dict[str, list[float]]:
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for each in results:
        if isinstance(each.score, float):
            scores[each.asked].append(each.score)
    return scores


def _to_score(results: Sequence[TaskResult]) -> int:
    """How many attempts have a label, or are of a scorer that needs none."""
    needs_none = any(each.label is None and isinstance(each.score, float) for each in results)
    return len(results) if needs_none else sum(each.label is not None for each in results)


def total(usages: Iterable[TokenUsage]) -> TokenUsage:
    """The sum of each count."""
    counts = [astuple(usage) for usage in usages]
    return TokenUsage(*map(sum, zip(*counts, strict=True))) if counts else TokenUsage(0, 0)


def dollars_of(results: Iterable[TaskResult]) -> float | None:
    """What their runs cost; None where one's is not known."""
    costs = [each.dollars for each in results if each.run_id is not None]
    return None if None in costs else sum(each or 0.0 for each in costs)


# -- several beside each other


@dataclass(frozen=True, slots=True)
class Pair:
    """Two standings at the tasks that both have scores of: ``first`` less ``second``."""

    first: str
    second: str
    figures: Paired


@dataclass(frozen=True, slots=True)
class Comparison:
    """Standings, the best first, and the best of them against each other one, task by task.

    ``shared_tasks`` are those that all have a score of. Where ``is_like_with_like`` is false, they
    rest on different tasks, and only what ``pairs`` says compares them.
    """

    standings: list[Standing]
    shared_tasks: int
    is_like_with_like: bool
    pairs: list[Pair]


def compared(results: Iterable[TaskResult], code_ran: Mapping[str, bool] = NO_LOG) -> Comparison:
    """What these results, of any models, came to; ``code_ran`` as for ``standing_of``."""
    groups: defaultdict[tuple[str, str], list[TaskResult]] = defaultdict(list)
    for each in results:
        groups[each.supervisor, each.worker].append(each)
    found = [standing_of(group, *models, code_ran) for models, group in groups.items()]
    found.sort(key=lambda each: -1.0 if each.accuracy is None else each.accuracy, reverse=True)
    means = {}
    for models, group in groups.items():
        means[models] = {asked: sum(s) / len(s) for asked, s in _by_task(group).items()}
    scored = [each for each in found if each.scored]
    tasks = [set(means[each.supervisor, each.worker]) for each in scored]
    shared = set.intersection(*tasks) if tasks else set()
    return Comparison(
        standings=found,
        shared_tasks=len(shared),
        is_like_with_like=all(each == shared for each in tasks),
        pairs=[
            pair for other in scored[1:] if (pair := _pair(scored[0], other, means)) is not None
        ],
    )


def _pair(
    first: Standing, second: Standing, means: dict[tuple[str, str], dict[str, float]]
) -> Pair | None:
    """The two at the tasks that they share; None where there is none."""
    one, other = means[first.supervisor, first.worker], means[second.supervisor, second.worker]
    differences = [one[asked] - other[asked] for asked in one if asked in other]
    return Pair(first.name, second.name, paired(differences)) if differences else None
