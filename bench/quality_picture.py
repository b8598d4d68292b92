"""The figures as a picture: shares of right answers with their intervals, and tokens and time."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from quality_report import Figures, Row, accuracy, families, seconds
from sandbox_picture import LINE_COLOUR, OTHER_COLOUR, OURS_COLOUR, _line, _text
from sandbox_report import machine, number

WIDTH, LEFT, RIGHT, ROW, GAP, COLUMN_GAP = 980, 180, 20, 22, 50, 34
GREY = "#57606a"


@dataclass
class Panel:
    """One measure; a bar is (value, its label, the ends of its whisker or None)."""

    title: str
    most: float
    bars: dict[str, tuple[float, str, tuple[float, float] | None]]


def draw(figures: Figures, path: Path) -> None:
    """Write the picture."""
    shares = [_share_panel(figures, family) for family in families(figures)]
    costs = [_cost_panel(figures, "prompt tokens a question"), _time_panel(figures)]
    height_of_row = ROW * len(figures.contestants) + GAP
    parts = _row_of(figures, shares, 26) + _row_of(figures, costs, 26 + height_of_row)
    about, bottom = machine(), 26 + 2 * height_of_row
    note = (
        f"Worker: SmolLM2-135M, window {figures.window_tokens:,} tokens. Lines: 95 % intervals, "
        f"and the least and the most seconds. {about['cores']} cores, {about['machine']}."
    )
    parts.append(_text(16, bottom, note, size=12, colour=GREY))
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{bottom + 16}" '
        f'viewBox="0 0 {WIDTH} {bottom + 16}" font-family="sans-serif">\n'
        f'<rect width="{WIDTH}" height="{bottom + 16}" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _share_panel(figures: Figures, family: str) -> Panel:
    bars = {}
    for name in figures.contestants:
        found = accuracy([row for row in figures.of(name) if row.family == family])
        label = f"{found['right']} of {found['count']}"
        share = found["right"] / found["count"]
        bars[name] = (100 * share, label, (100 * found["low"], 100 * found["high"]))
    return Panel(f"{family}: right answers, %", 100, bars)


def _cost_panel(figures: Figures, title: str) -> Panel:
    values = {name: _mean_tokens(figures.of(name)) for name in figures.contestants}
    bars = {name: (value, number(value), None) for name, value in values.items()}
    return Panel(title, max(values.values()), bars)


def _mean_tokens(rows: list[Row]) -> float:
    return statistics.mean(row.prompt_tokens for row in rows)


def _time_panel(figures: Figures) -> Panel:
    bars = {}
    for name in figures.contestants:
        if times := seconds(figures.of(name)):
            middle = statistics.median(times)
            bars[name] = (middle, number(middle), (times[0], times[-1]))
    most = max(whisker[1] for _, _, whisker in bars.values() if whisker)
    return Panel("seconds a question, the median", most, bars)


def _row_of(figures: Figures, panels: list[Panel], top: int) -> list[str]:
    """Panels side by side, and the names at the left."""
    parts = [
        _text(
            LEFT - 8, top + 24 + ROW * row, name, size=12, at="end", bold=name.startswith("distill")
        )
        for row, name in enumerate(figures.contestants)
    ]
    width = (WIDTH - LEFT - RIGHT - COLUMN_GAP * (len(panels) - 1)) / len(panels)
    for place, panel in enumerate(panels):
        left = LEFT + place * (width + COLUMN_GAP)
        parts += _panel(figures, panel, left, width - 56, top)
    return parts


def _panel(figures: Figures, panel: Panel, left: float, width: float, top: int) -> list[str]:
    """Bars from ``left`` that are ``width`` long at the most; their labels stand beyond that."""
    bottom = top + 12 + ROW * len(figures.contestants)
    parts = [_text(left, top, panel.title, size=13, bold=True)]
    for part in (0.0, 0.5, 1.0):
        x = left + width * part
        parts.append(_line(x, top + 8, x, bottom, LINE_COLOUR))
        label = number(panel.most * part) if part else "0"
        parts.append(_text(x, bottom + 12, label, size=10, colour=GREY, at="middle"))
    for row, name in enumerate(figures.contestants):
        if name not in panel.bars:
            continue
        value, label, whisker = panel.bars[name]
        y = top + 12 + ROW * row
        colour = OURS_COLOUR if name.startswith("distill") else OTHER_COLOUR
        long = width * value / panel.most
        parts.append(
            f'<rect x="{left:.1f}" y="{y}" width="{long:.1f}" height="{ROW - 6}" fill="{colour}"/>'
        )
        if whisker:
            ends = [left + width * end / panel.most for end in whisker]
            parts.append(_line(ends[0], y + 8, ends[1], y + 8, "#24292f"))
        parts.append(_text(left + width + 6, y + 12, label, size=11))
    return parts
