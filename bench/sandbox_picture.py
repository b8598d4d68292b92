"""The figures as a picture: bars on logarithmic scales, in hand-written SVG."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from sandbox_report import OURS, Figures, machine, number

from distill.bar_picture import GREY, OTHER_COLOUR, OURS_COLOUR, line, svg, text

WIDTH, LEFT, RIGHT, ROW, GAP = 860, 190, 110, 22, 46
"""Pixels: the whole width, the names' column, the values' column, a bar's row, between panels."""


@dataclass
class Panel:
    """One measure: values by contestant in one unit, the smaller the better."""

    title: str
    unit: str
    values: dict[str, float]
    tails: dict[str, float]
    """The 99th percentile, drawn as a thin line, where there is one."""

    @property
    def height(self) -> int:
        """In pixels."""
        return ROW * len(self.values) + GAP


def draw(figures: Figures, path: Path) -> None:
    """Write the picture."""
    panels = [panel for panel in _panels(figures) if panel.values]
    height = sum(panel.height for panel in panels) + GAP
    parts, top = [], 20
    for panel in panels:
        parts += _panel(panel, top)
        top += panel.height
    about = machine()
    machine_name = f"{about['cores']} cores, {about['machine']}, Python {about['python']}"
    note = (
        f"Smaller is better; logarithmic scales. Only distill's cells are jailed. {machine_name}."
    )
    parts.append(text(LEFT, top + 14, note, size=12, colour=GREY))
    path.write_text(svg(parts, WIDTH, height))


def _panels(figures: Figures) -> list[Panel]:
    sizes = [size for held in figures.contexts.values() for size in held]
    largest = max(sizes, default=0)
    held = {
        name: one[largest]
        for name, one in figures.contexts.items()
        if isinstance(one.get(largest), dict)
    }
    starts, cells = figures.starts, {n: kinds["cell"] for n, kinds in figures.trips.items()}
    return [
        _timed("A new session's first cell, in a running program", "ms", 1e3,
               {name: start.session for name, start in starts.items()}),
        _timed("Round trip of a trivial cell, with its 99th percentile", "µs", 1e6, cells),
        Panel(f"A text of {largest:,} MB, to its first use", "ms",
              {name: 1e3 * one["first_use_s"] for name, one in held.items()}, {}),
        Panel(f"Memory of its own that a text of {largest:,} MB costs the interpreter", "MiB",
              {name: one["anonymous_bytes"] / 2**20 for name, one in held.items()}, {}),
    ]  # fmt: skip


def _timed(title: str, unit: str, scale: float, times: dict[str, list[float]]) -> Panel:
    known = {name: sorted(each) for name, each in times.items() if each}
    return Panel(
        title,
        unit,
        {name: scale * statistics.median(each) for name, each in known.items()},
        {name: scale * each[int(len(each) * 0.99)] for name, each in known.items()},
    )


def _panel(panel: Panel, top: int) -> list[str]:
    everything = [*panel.values.values(), *panel.tails.values()]
    low = math.floor(math.log10(min(everything)) - 0.3)
    high = math.ceil(math.log10(max(everything)))
    span = WIDTH - LEFT - RIGHT

    def place(value: float) -> float:
        return LEFT + span * (math.log10(value) - low) / (high - low)

    bottom = top + 10 + ROW * len(panel.values)
    parts = [text(LEFT, top, f"{panel.title}, {panel.unit}", size=14, bold=True)]
    for power in range(low, high + 1):
        x = place(10**power)
        parts.append(line(x, top + 8, x, bottom))
        parts.append(text(x, bottom + 12, f"{10**power:g}", size=10, colour=GREY, at="middle"))
    for row, (name, value) in enumerate(sorted(panel.values.items(), key=lambda item: item[1])):
        y = top + 12 + ROW * row
        tail = place(panel.tails.get(name, value))
        colour = OURS_COLOUR if name == OURS else OTHER_COLOUR
        parts.append(text(LEFT - 8, y + 12, name, size=12, bold=name == OURS, at="end"))
        parts.append(
            f'<rect x="{LEFT}" y="{y}" width="{place(value) - LEFT:.1f}" height="{ROW - 6}" '
            f'fill="{colour}"/>'
        )
        parts.append(line(place(value), y + 8, tail, y + 8, colour))
        parts.append(text(tail + 6, y + 12, number(value), size=12))
    return parts
