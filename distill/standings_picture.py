"""Standings as a picture: accuracies with their intervals, and what a run takes."""

from collections.abc import Callable, Sequence
from pathlib import Path

from distill.bar_picture import Bar, Panel, number, picture
from distill.errors import InputError
from distill.standings import Comparison, Standing
from distill.standings_table import short
from distill.traces.records import TokenUsage

SUFFIX = ".svg"
NAME_WIDTH, WIDEST_NAMES = 8, 480
"""Pixels: of a character of a name, and of all names at the most."""


def check_picture(path: Path) -> None:
    """Raise InputError for a file that is no SVG, or is in no folder."""
    if path.suffix.lower() != SUFFIX:
        raise InputError(f"the picture {path} is an SVG: name it {path.with_suffix(SUFFIX).name}")
    if not path.parent.is_dir():
        raise InputError(f"the picture's folder {path.parent} is not there")


def drawn(comparison: Comparison, scorer: str) -> str:
    """The picture as SVG."""
    names = _names(comparison.standings)
    dollars = _means("dollars", names, lambda each: each.dollars)
    rows = [[_accuracies(names), dollars], _costs(names)]
    rows = [[panel for panel in row if panel.most] for row in rows]
    note = f"Scorer: {short(scorer)}; lines: 95 % intervals (Wilson). Costs: of a run, on average."
    if not comparison.is_like_with_like:
        note += f" Different tasks: only {comparison.shared_tasks:,} are shared by all."
    best = list(names)[:1] if len(names) > 1 else []
    left = min(20 + NAME_WIDTH * max(map(len, names)), WIDEST_NAMES)
    return picture([row for row in rows if row], list(names), note, ours=best, left=left)


def _names(standings: Sequence[Standing]) -> dict[str, Standing]:
    """The standings by names that fit, and differ."""
    names: dict[str, Standing] = {}
    for each in standings:
        name = short(each.name)
        names[name if name not in names else f"{name} ({len(names) + 1})"] = each
    return names


def _accuracies(names: dict[str, Standing]) -> Panel:
    bars = {}
    for name, each in names.items():
        if each.accuracy is not None and each.interval is not None:
            whisker = (100 * each.interval[0], 100 * each.interval[1])
            bars[name] = Bar(100 * each.accuracy, f"{100 * each.accuracy:.1f}", whisker)
    return Panel("accuracy, %", 100, bars)


def _costs(names: dict[str, Standing]) -> list[Panel]:
    """What a run takes, on average."""
    return [
        _means("supervisor tokens", names, lambda each: _tokens(each.supervisor_usage)),
        _means("worker tokens", names, lambda each: _tokens(each.worker_usage)),
        _means("seconds", names, lambda each: each.run_s),
    ]


def _means(title: str, names: dict[str, Standing], of: Callable[[Standing], float | None]) -> Panel:
    """A bar for each of whom it is known."""
    bars = {}
    for name, each in names.items():
        if (sum_of_runs := of(each)) is not None and each.ended:
            value = sum_of_runs / each.ended
            bars[name] = Bar(value, number(value))
    return Panel(title, max((bar.value for bar in bars.values()), default=0.0), bars)


def _tokens(usage: TokenUsage) -> int:
    return usage.input_tokens + usage.output_tokens
