"""The curve of a loop, as SVG for a page that says what its classes look like.

Held-out accuracy by version with its interval, baselines as lines, the oracle apart at the right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from distill.bar_picture import NOT_XML
from distill.intervals import Interval

WIDTH, HEIGHT = 860, 380
LEFT, RIGHT, TOP, BOTTOM = 52, 230, 18, 44
"""Pixels around the plot; at its right stand the names of the lines."""
STEP_MAX = 250
"""Between two versions, at the most."""
NAME_ROW = 16
"""The least between two names of lines."""
NAME_CHAR = 7
"""Of a name, on average, in pixels."""
LEADER = 14
"""From a line to its name, which need not be as high: lines of nearly equal value are two."""


@dataclass(frozen=True, slots=True)
class Point:
    """A version's, or the oracle's: accuracy and interval from 0 to 1."""

    label: str
    accuracy: float
    interval: Interval
    is_kept: bool = True


@dataclass(frozen=True, slots=True)
class Line:
    """A baseline's."""

    label: str
    accuracy: float


def curve(points: Sequence[Point], lines: Sequence[Line], oracle: Point | None) -> str:
    """The picture. ``points`` are in the order of the versions, the first is the base."""
    columns = len(points) + (oracle is not None)
    step = min((WIDTH - LEFT - RIGHT) / max(columns, 1), STEP_MAX)
    places = [LEFT + step * (number + 0.5) for number in range(columns)]
    end = LEFT + step * columns
    parts = [*_axes(end), *_baselines(lines, end)]
    if oracle is not None:
        border = LEFT + step * len(points)
        parts.append(_stroke(border, TOP, border, HEIGHT - BOTTOM, "apart"))
        parts += _dot(oracle, places[-1], "oracle")
    kept = [(x, _y(each.accuracy)) for x, each in zip(places, points, strict=False) if each.is_kept]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in kept)
    parts.append(f'<polyline class="kept" points="{path}"/>')
    for x, each in zip(places, points, strict=False):
        parts += _dot(each, x, "kept" if each.is_kept else "dropped")
    told = f"Held-out accuracy of {len(points)} versions"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{told}">'
        + "\n".join(parts)
        + "</svg>"
    )


def _y(accuracy: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - accuracy)


def _axes(end: float) -> list[str]:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share)
        parts.append(_stroke(LEFT, y, end, y, "grid"))
        parts.append(_text(LEFT - 8, y + 4, f"{100 * share:.0f} %", "axis", "end"))
    return parts


def _baselines(lines: Sequence[Line], end: float) -> list[str]:
    """The lines, and their names at the right, none over another."""
    room = int((WIDTH - end - LEADER - 4) / NAME_CHAR)
    parts, lowest = [], TOP - NAME_ROW / 2
    for each in sorted(lines, key=lambda line: -line.accuracy):
        y = _y(each.accuracy)
        parts.append(_stroke(LEFT, y, end, y, "baseline"))
        lowest = max(y, lowest + NAME_ROW)
        parts.append(_stroke(end, y, end + LEADER, lowest, "baseline"))
        name = each.label if len(each.label) <= room else f"{each.label[: room - 1]}…"
        parts.append(_text(end + LEADER + 4, lowest + 4, name, "name", "start"))
    return parts


def _dot(point: Point, x: float, kind: str) -> list[str]:
    low, high = (_y(share) for share in point.interval)
    y = _y(point.accuracy)
    parts = [_stroke(x, low, x, high, f"whisker {kind}")]
    if kind == "oracle":
        corners = f"{x},{y - 7:.1f} {x + 7},{y:.1f} {x},{y + 7:.1f} {x - 7},{y:.1f}"
        parts.append(f'<polygon class="{kind}" points="{corners}"/>')
    else:
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>')
    parts.append(_text(x + 10, y - 8, f"{100 * point.accuracy:.1f}", "value", "start"))
    parts.append(_text(x, HEIGHT - BOTTOM + 20, point.label, "axis", "middle"))
    if kind == "dropped":
        parts.append(_text(x, HEIGHT - BOTTOM + 35, kind, "axis", "middle"))
    return parts


def _stroke(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, words: str, kind: str, at: str) -> str:
    words = escape(NOT_XML.sub("?", words))
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{at}">{words}</text>'
