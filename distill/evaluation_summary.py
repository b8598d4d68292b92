"""What many tasks came to: accuracy, cost, failures by kind; for a file, and for a screen."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
from msgspec.structs import astuple

from distill.budget import counted
from distill.task_results import TaskResult
from distill.tasks import Task
from distill.traces.records import TokenUsage

FAILURE_CHARS = 300
"""Of the first failure of a kind, for people."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Of the attempts that have a result, each counted once.

    ``right`` is the sum of the scores, ``accuracy`` their mean over the ``scored`` attempts;
    ``accuracy_of_all`` is over all attempts that have a label, a failed one being wrong. None where
    there is none. ``failures`` counts errors by kind, ``exit_codes`` by their code. ``run_s`` adds
    up the runs, ``elapsed_s`` is the wall clock of this evaluation since it was started (again).
    ``dollars`` are None where one run's are not known, ``ended_by`` counts runs that a budget
    ended. ``judge_usage`` is in no run, nor in the dollars.
    """

    tasks: int
    attempts: int
    ended: int
    answered: int
    unanswered: int
    failed: int
    failures: dict[str, int]
    first_of_kind: dict[str, str]
    exit_codes: dict[str, int]
    scorer: str
    scored: int
    right: float
    accuracy: float | None
    accuracy_of_all: float | None
    supervisor_usage: TokenUsage
    worker_usage: TokenUsage
    judge_usage: TokenUsage | None
    worker_calls: int
    dollars: float | None
    dollars_per_right: float | None
    ended_by: dict[str, int]
    run_s: float
    elapsed_s: float

    @property
    def exit_code(self) -> int:
        """0 if no attempt has failed, else the code of the most frequent failure."""
        codes = [(count, int(code)) for code, count in self.exit_codes.items()]
        return max(codes)[1] if codes else 0


def summarised(
    tasks: Sequence[Task], results: Sequence[TaskResult], scorer: str, elapsed_s: float
) -> Summary:
    """The summary of these results."""
    errors = [each.error for each in results if each.error is not None]
    scores = [each.score for each in results if isinstance(each.score, float)]
    labelled = sum(each.label is not None for each in results)
    judged = [each.judge_usage for each in results if each.judge_usage is not None]
    unanswered = sum(each.error is None and each.answer is None for each in results)
    dollars, right = dollars_of(results), sum(scores)
    return Summary(
        tasks=len(tasks),
        attempts=sum(task.attempts for task in tasks),
        ended=len(results),
        answered=len(results) - unanswered - len(errors),
        unanswered=unanswered,
        failed=len(errors),
        failures=dict(Counter(each.kind for each in errors).most_common()),
        first_of_kind={each.kind: each.detail for each in reversed(errors)},
        exit_codes=dict(Counter(str(each.exit_code) for each in errors)),
        scorer=scorer,
        scored=len(scores),
        right=right,
        accuracy=right / len(scores) if scores else None,
        accuracy_of_all=right / labelled if scores else None,
        supervisor_usage=total(each.supervisor_usage for each in results),
        worker_usage=total(each.worker_usage for each in results),
        judge_usage=total(judged) if judged else None,
        worker_calls=sum(each.worker_calls for each in results),
        dollars=dollars,
        dollars_per_right=dollars / right if dollars is not None and right else None,
        ended_by=dict(Counter(each.ended_by for each in results if each.ended_by).most_common()),
        run_s=sum(each.elapsed_s for each in results),
        elapsed_s=elapsed_s,
    )


def total(usages: Iterable[TokenUsage]) -> TokenUsage:
    """The sum of each count."""
    counts = [astuple(usage) for usage in usages]
    return TokenUsage(*map(sum, zip(*counts, strict=True))) if counts else TokenUsage(0, 0)


def dollars_of(results: Iterable[TaskResult]) -> float | None:
    """What their runs cost; None where one's is not known."""
    costs = [each.dollars for each in results if each.run_id is not None]
    return None if None in costs else sum(each or 0.0 for each in costs)


def as_json(summary: Summary) -> bytes:
    """The summary as a file holds it."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=1) + b"\n"


def told(summary: Summary, results: str, log_dir: str) -> str:
    """The summary for people."""

    def tokens(usage: TokenUsage) -> str:
        return f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out"

    ends = f"{summary.answered:,} answered, {summary.unanswered:,} without an answer"
    lines = [
        f"Tasks       {summary.tasks:,}, {counted(summary.attempts, 'attempt')}",
        f"Ended       {summary.ended:,}: {ends}, {summary.failed:,} failed",
    ]
    for kind, count in summary.failures.items():
        first = summary.first_of_kind[kind].partition("\n")[0]
        lines.append(f"            {count:,} × {kind}, the first: {first[:FAILURE_CHARS]}")
    if summary.accuracy is not None:
        lines.append(
            f"Score       {summary.accuracy:.3f} ({summary.scorer}), {summary.scored:,} scored; "
            f"{summary.accuracy_of_all:.3f} with the failed as wrong"
        )
    else:
        lines.append("Score       none: no answer could be scored")
    lines += [
        f"Supervisor  {tokens(summary.supervisor_usage)}",
        f"Workers     {counted(summary.worker_calls, 'call')}, {tokens(summary.worker_usage)}",
    ]
    if summary.judge_usage is not None:
        lines.append(f"Judge       {tokens(summary.judge_usage)}")
    if summary.dollars is None:
        lines.append("Cost        not known: a model has no price (--prices)")
    elif summary.dollars:
        each = summary.dollars_per_right
        right = f", ${each:,.4f} for each right answer" if each is not None else ""
        lines.append(f"Cost        ${summary.dollars:,.4f}{right}")
    if summary.ended_by:
        budgets = (
            f"{counted(count, 'run')} ({name.replace('_', ' ')})"
            for name, count in summary.ended_by.items()
        )
        lines.append(f"Ended by    a budget: {', '.join(budgets)}")
    lines.append(f"Time        {summary.elapsed_s:.1f} s; {summary.run_s:.1f} s of runs")
    lines += [f"Results     {results}", f"Traces      {log_dir}"]
    return "\n".join(lines)
