"""What many tasks came to: accuracy, cost, failures by kind; for a file, and for a screen."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

import msgspec

from distill.budget import counted
from distill.standings import Standing, standing_of
from distill.tasks import Task
from distill.traces.records import TokenUsage
from distill.traces.results import TaskResult

FAILURE_CHARS = 300
"""Of the first failure of a kind, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(Standing):
    """The standing of an evaluation's models, and what else is to be said of it.

    ``tasks`` and ``attempts`` are those that there are, ``ended`` the attempts that have a result.
    ``failures`` counts errors by kind, ``exit_codes`` by their code. ``elapsed_s`` is the wall
    clock of this evaluation since it was started (again). ``ended_by`` counts runs that a budget
    ended.
    """

    attempts: int
    failures: dict[str, int]
    first_of_kind: dict[str, str]
    exit_codes: dict[str, int]
    scorer: str
    ended_by: dict[str, int]
    elapsed_s: float

    @property
    def exit_code(self) -> int:
        """0 if no attempt has failed, else the code of the most frequent failure."""
        codes = [(count, int(code)) for code, count in self.exit_codes.items()]
        return max(codes)[1] if codes else 0


def summarised(
    tasks: Sequence[Task],
    results: Sequence[TaskResult],
    models: tuple[str, str],
    scorer: str,
    elapsed_s: float,
) -> Summary:
    """The summary of these results, of a supervisor and a worker."""
    standing = standing_of(results, *models)
    errors = [each.error for each in results if each.error is not None]
    told = {each.name: getattr(standing, each.name) for each in fields(Standing)}
    return Summary(
        **told | {"tasks": len(tasks)},
        attempts=sum(task.attempts for task in tasks),
        failures=dict(Counter(each.kind for each in errors).most_common()),
        first_of_kind={each.kind: each.detail for each in reversed(errors)},
        exit_codes=dict(Counter(str(each.exit_code) for each in errors)),
        scorer=scorer,
        ended_by=dict(Counter(each.ended_by for each in results if each.ended_by).most_common()),
        elapsed_s=elapsed_s,
    )


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
    if summary.accuracy is not None and summary.interval is not None:
        low, high = summary.interval
        lines.append(
            f"Score       {summary.accuracy:.3f} ({summary.scorer}; 95 %: {low:.3f}–{high:.3f}), "
            f"{summary.scored:,} scored; {summary.accuracy_of_all:.3f} with the failed as wrong"
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
