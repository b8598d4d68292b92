"""The figures as a picture: shares of right answers with their intervals, and tokens and time."""

from __future__ import annotations

import statistics
from pathlib import Path

from quality_report import Figures, Row, accuracy, families, seconds
from sandbox_report import machine

from distill.bar_picture import Bar, Panel, number, picture


def draw(figures: Figures, path: Path) -> None:
    """Write the picture."""
    shares = [_share_panel(figures, family) for family in families(figures)]
    costs = [_cost_panel(figures, "prompt tokens a question"), _time_panel(figures)]
    about = machine()
    note = (
        f"Worker: SmolLM2-135M, window {figures.window_tokens:,} tokens. Lines: 95 % intervals, "
        f"and the least and the most seconds. {about['cores']} cores, {about['machine']}."
    )
    ours = [name for name in figures.contestants if name.startswith("distill")]
    path.write_text(picture([shares, costs], figures.contestants, note, ours=ours))


def _share_panel(figures: Figures, family: str) -> Panel:
    bars = {}
    for name in figures.contestants:
        found = accuracy([row for row in figures.of(name) if row.family == family])
        label = f"{found['right']} of {found['count']}"
        share = found["right"] / found["count"]
        bars[name] = Bar(100 * share, label, (100 * found["low"], 100 * found["high"]))
    return Panel(f"{family}: right answers, %", 100, bars)


def _cost_panel(figures: Figures, title: str) -> Panel:
    values = {name: _mean_tokens(figures.of(name)) for name in figures.contestants}
    bars = {name: Bar(value, number(value)) for name, value in values.items()}
    return Panel(title, max(values.values()), bars)


def _mean_tokens(rows: list[Row]) -> float:
    return statistics.mean(row.prompt_tokens for row in rows)


def _time_panel(figures: Figures) -> Panel:
    bars = {}
    for name in figures.contestants:
        if times := seconds(figures.of(name)):
            middle = statistics.median(times)
            bars[name] = Bar(middle, number(middle), (times[0], times[-1]))
    most = max(bar.whisker[1] for bar in bars.values() if bar.whisker)
    return Panel("seconds a question, the median", most, bars)
