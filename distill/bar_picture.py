"""Bars beside names, as SVG: several measures of the same things, each on a scale of its own."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, RIGHT, ROW, GAP, COLUMN_GAP, VALUE = 980, 20, 22, 50, 34, 56
"""Pixels: the whole, at its right, a bar's row, between rows of panels, between panels, a value."""
OURS_COLOUR, OTHER_COLOUR, TEXT_COLOUR, LINE_COLOUR = "#1f6f54", "#9aa5ad", "#24292f", "#d7dde2"
GREY = "#57606a"
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML may hold."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with what is written beside it, and the ends of its whisker, if it has one."""

    value: float
    label: str
    whisker: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """One measure: a bar by name, on a scale that ends at ``most``."""

    title: str
    most: float
    bars: dict[str, Bar]


def number(value: float) -> str:
    """Three figures, and no exponents."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def picture(
    rows: Sequence[Sequence[Panel]],
    names: Sequence[str],
    note: str,
    *,
    ours: Collection[str],
    left: int = 180,
) -> str:
    """The panels in rows, with the names at the left of each row; those of ``ours`` stand out."""
    row_height = ROW * len(names) + GAP
    bottom = 26 + len(rows) * row_height
    parts = []
    for place, panels in enumerate(rows):
        parts += _row_of(panels, names, 26 + place * row_height, ours, left)
    parts.append(text(16, bottom, note, size=12, colour=GREY))
    return svg(parts, WIDTH, bottom + 16)


def svg(parts: Sequence[str], width: int, height: int) -> str:
    """A whole picture, on white."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif">\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _row_of(
    panels: Sequence[Panel], names: Sequence[str], top: int, ours: Collection[str], left: int
) -> list[str]:
    """Panels side by side, and the names at the left."""
    parts = [
        text(left - 8, top + 24 + ROW * row, name, size=12, at="end", bold=name in ours)
        for row, name in enumerate(names)
    ]
    width = (WIDTH - left - RIGHT - COLUMN_GAP * (len(panels) - 1)) / len(panels)
    for place, panel in enumerate(panels):
        parts += _panel(panel, names, left + place * (width + COLUMN_GAP), width - VALUE, top, ours)
    return parts


def _panel(
    panel: Panel,
    names: Sequence[str],
    left: float,
    width: float,
    top: int,
    ours: Collection[str],
) -> list[str]:
    """Bars from ``left`` that are ``width`` long at the most; their labels stand beyond that."""
    bottom = top + 12 + ROW * len(names)
    parts = [text(left, top, panel.title, size=13, bold=True)]
    for part in (0.0, 0.5, 1.0):
        x = left + width * part
        parts.append(line(x, top + 8, x, bottom))
        label = number(panel.most * part) if part else "0"
        parts.append(text(x, bottom + 12, label, size=10, colour=GREY, at="middle"))
    for row, name in enumerate(names):
        if name not in panel.bars:
            continue
        bar, y = panel.bars[name], top + 12 + ROW * row
        colour = OURS_COLOUR if name in ours else OTHER_COLOUR
        long = width * bar.value / panel.most if panel.most else 0.0
        parts.append(
            f'<rect x="{left:.1f}" y="{y}" width="{long:.1f}" height="{ROW - 6}" fill="{colour}"/>'
        )
        if bar.whisker:
            ends = [left + width * end / panel.most for end in bar.whisker]
            parts.append(line(ends[0], y + 8, ends[1], y + 8, TEXT_COLOUR))
        parts.append(text(left + width + 6, y + 12, bar.label, size=11))
    return parts


def line(x1: float, y1: float, x2: float, y2: float, colour: str = LINE_COLOUR) -> str:
    """A line of an SVG."""
    return f'<line x1="{x1:.1f}" y1="{y1}" x2="{x2:.1f}" y2="{y2}" stroke="{colour}"/>'


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: int,
    colour: str = TEXT_COLOUR,
    bold: bool = False,
    at: str = "start",
) -> str:
    """A text of an SVG; words that say something else there are escaped."""
    weight, words = ' font-weight="bold"' if bold else "", NOT_XML.sub("?", words)
    return (
        f'<text x="{x:.1f}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{at}"{weight}>'
        f"{escape(words)}</text>"
    )
