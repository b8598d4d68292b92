"""Standings for people: a table, what it rests on, and the pairs."""

from collections.abc import Sequence

from distill.budget import counted
from distill.intervals import Interval
from distill.standings import Comparison, Pair, Standing
from distill.supervisor.text import visible

HEAD = (
    "Supervisor",
    "Worker",
    "Tasks",
    "Runs",
    "Failed",
    "Scored",
    "Accuracy",
    "95 %",
    "Code ran",
    "95 %",
    "Turns",
    "Tokens, supervisor",
    "Tokens, workers",
    "Dollars",
    "Seconds",
)
WORDS = 2
"""Columns of words; the others are numbers, and stand at the right."""
NAME_CHARS = 60
INTERVAL = """\
95 %: Wilson's interval of the accuracy, for as many answers as there are tasks; for fewer, where
some tasks have more attempts than others (Kish's effective sample size)."""
CODE_RAN = """\
Code ran: the share of runs whose first reply had code that ran to its end, with its 95 %."""
COSTS = "Turns, tokens, dollars and seconds are means of a run."
BY_PAIRS = """\
These rest on different tasks, {shared} of which all have a score of: their accuracies can't be
compared, only the pairs below, if any."""
PAIRS = """\
Task by task, where both have a score: the difference of the mean scores with its 95 % interval
(Bonett and Price), at how many tasks it is for and against, and the chance of as much by luck alone
(exact sign test, of each pair by itself)."""


def table(comparison: Comparison) -> str:
    """The standings as lines, the best first, with what is to be known to read them."""
    lines = aligned([HEAD, *(_row(each) for each in comparison.standings)], WORDS)
    lines += ["", INTERVAL, CODE_RAN, COSTS]
    if len(comparison.standings) > 1 and not comparison.is_like_with_like:
        lines += ["", BY_PAIRS.format(shared=f"{comparison.shared_tasks:,}")]
    if comparison.pairs:
        lines += ["", PAIRS, *(pair_line(pair) for pair in comparison.pairs)]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]], words: int) -> list[str]:
    """Rows as lines; the first ``words`` columns stand at the left, the others at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _row(standing: Standing) -> tuple[str, ...]:
    runs = max(standing.ended, 1)
    supervisor, workers = standing.supervisor_usage, standing.worker_usage
    dollars = standing.dollars_per_run
    return (
        short(standing.supervisor),
        short(standing.worker),
        f"{standing.tasks:,}",
        f"{standing.ended:,}",
        f"{standing.failed:,}",
        f"{standing.scored:,}",
        *share(standing.accuracy, standing.interval),
        *share(standing.code_ran, standing.code_ran_interval),
        f"{standing.iterations / runs:.1f}",
        f"{(supervisor.input_tokens + supervisor.output_tokens) / runs:,.0f}",
        f"{(workers.input_tokens + workers.output_tokens) / runs:,.0f}",
        "–" if dollars is None else f"{dollars:.4f}",
        f"{standing.run_s / runs:.1f}",
    )


def share(part: float | None, sure: Interval | None) -> tuple[str, str]:
    """A share, and its interval; dashes where nobody knows."""
    return (
        "–" if part is None else f"{part:.3f}",
        "–" if sure is None else interval(*sure),
    )


def short(name: str) -> str:
    """A name from a log, in a line."""
    name = " ".join(visible(name).split())
    return name if len(name) <= NAME_CHARS else f"{name[: NAME_CHARS - 1]}…"


def interval(low: float, high: float) -> str:
    """As people read it."""
    return f"{low:.3f}–{high:.3f}"


def pair_line(pair: Pair) -> str:
    """The first of a pair against the second, in figures."""
    figures = pair.figures
    low, high = figures.interval
    return (
        f"  {short(pair.first)} against {short(pair.second)}, {counted(figures.tasks, 'task')}: "
        f"{figures.difference:+.3f} ({low:+.3f} to {high:+.3f}), for {figures.better:,}, against "
        f"{figures.worse:,}, equal {figures.equal:,}; p = {figures.p:.2g}"
    )
