"""The figures of bench/sandbox as tables, as one object, and against the aims."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from sandbox_measures import Start

from distill.bar_picture import number

MIB = 1 << 20
CHAIN, OURS, KERNEL = "bare chain", "distill", "ipykernel"


@dataclass
class Figures:
    """All that one run of the bench has measured."""

    starts: dict[str, Start] = field(default_factory=dict)
    trips: dict[str, dict[str, Any]] = field(default_factory=dict)
    contexts: dict[str, dict[int, Any]] = field(default_factory=dict)
    hazards: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str | None] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def as_object(self) -> dict[str, Any]:
        """For ``--json``; times in seconds, memory in bytes."""
        return {
            "bench": "sandbox",
            "machine": machine(),
            "versions": self.versions,
            "missing": self.missing,
            "starts": {name: asdict(start) for name, start in self.starts.items()},
            "trips": {
                name: {kind: spread(times) for kind, times in kinds.items()}
                for name, kinds in self.trips.items()
            },
            "contexts": self.contexts,
            "hazards": self.hazards,
            "aims": [asdict(aim) for aim in aims(self)],
        }


def machine() -> dict[str, Any]:
    """What it was measured on, and how busy that was."""
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_1_min": round(os.getloadavg()[0], 1),
    }


def spread(times: Any) -> Any:
    """Least, median and 99th percentile of seconds; a str (why there are none) as it is."""
    if not times or isinstance(times, str):
        return times or None
    ordered = sorted(times)
    return {
        "count": len(ordered),
        "min": ordered[0],
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[int(len(ordered) * 0.99)],
    }


# -- the aims


@dataclass
class Aim:
    """One aim of the sandbox: ``measured`` must not exceed (or, ``at_least``, not fall below)."""

    name: str
    measured: float
    aim: float
    unit: str
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether this run met it."""
        return self.measured >= self.aim if self.at_least else self.measured <= self.aim


def aims(figures: Figures) -> list[Aim]:
    """The aims that could be judged by what was measured."""
    return [*_start_aims(figures), *_trip_aims(figures), *_context_aims(figures), *_left(figures)]


def _start_aims(figures: Figures) -> list[Aim]:
    ours = figures.starts.get(OURS)
    if ours is None:
        return []
    return [
        Aim("first cell of a prepared session", _ms(ours.session), 5, "ms"),
        Aim("first cell of a new jail, its keeper running", _ms(ours.replaced), 60, "ms"),
    ]


def _ms(times: list[float]) -> float:
    return 1000 * statistics.median(times)


def _trip_aims(figures: Figures) -> list[Aim]:
    found = []
    p50 = {
        (name, kind): statistics.median(times)
        for name, kinds in figures.trips.items()
        for kind, times in kinds.items()
        if times and not isinstance(times, str)
    }
    for kind, what in (("cell", "a trivial cell"), ("call", "a host call")):
        if (OURS, kind) in p50 and (CHAIN, kind) in p50:
            ratio = p50[OURS, kind] / p50[CHAIN, kind]
            found.append(Aim(f"round trip of {what} / the bare chain's", ratio, 1.3, "×"))
    if (OURS, "cell") in p50 and (KERNEL, "cell") in p50:
        ratio = p50[KERNEL, "cell"] / p50[OURS, "cell"]
        found.append(Aim("ipykernel's round trip / ours", ratio, 12, "×", at_least=True))
    return found


def _context_aims(figures: Figures) -> list[Aim]:
    held = figures.contexts.get(OURS, {})
    largest = held.get(max(held, default=0))
    if not isinstance(largest, dict):
        return []
    size = f"{max(held):,} MB"
    return [
        Aim(f"{size} visible, once in place", 1000 * largest["visible_s"], 50, "ms"),
        Aim(f"{size}: RssAnon of the interpreter", largest["anonymous_bytes"] / MIB, 64, "MiB"),
    ]


def _left(figures: Figures) -> list[Aim]:
    ours = figures.hazards.get(OURS, {})
    back = sum(one["left"] == "all" for one in ours.values())
    return [Aim("hazards with all variables back", back, len(ours), "", at_least=True)]


# -- tables


def tables(figures: Figures) -> str:
    """All tables, in Markdown."""
    parts = [
        table("Start to the first cell's answer (ms)", START_HEAD, _start_rows(figures)),
        table("Round trip (µs)", TRIP_HEAD, _trip_rows(figures)),
        *(
            table(f"A context of {size:,} MB", CONTEXT_HEAD, _context_rows(figures, size))
            for size in sorted({size for held in figures.contexts.values() for size in held})
        ),
        table("Variables left, and ms from the hazard to the next answer", *_hazard_table(figures)),
        table("Aims", AIM_HEAD, [aim_row(aim) for aim in aims(figures)]),
    ]
    return "\n\n".join(parts)


START_HEAD = ["", "from nothing", "in a running program", "jail dies → next cell"]
TRIP_HEAD = ["", "cell p50", "cell p99", "call p50", "call p99", "cell / bare chain"]
CONTEXT_HEAD = ["", "first use (ms)", "search it (ms)", "RssAnon (MiB)", "once in place (ms)"]
AIM_HEAD = ["", "measured", "aim", ""]


def table(title: str, head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [head, *rows]
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return f"**{title}**\n\n" + "\n".join(lines)


def _range(times: list[float], scale: float = 1000) -> str:
    """The median, and in brackets the least and the most."""
    if not times:
        return "–"
    low, middle, high = (scale * f(times) for f in (min, statistics.median, max))
    return f"{number(middle)} ({number(low)}–{number(high)})"


def _start_rows(figures: Figures) -> list[list[str]]:
    return [
        [name, _range(start.cold), _range(start.session), _range(start.replaced)]
        for name, start in figures.starts.items()
    ]


def _trip_rows(figures: Figures) -> list[list[str]]:
    rows = []
    chain = spread(figures.trips.get(CHAIN, {}).get("cell"))
    for name, kinds in figures.trips.items():
        cell, call = spread(kinds["cell"]), spread(kinds["call"])
        row = [name]
        for one in (cell, call):
            row += [number(1e6 * one[key]) if isinstance(one, dict) else "–" for key in P50_P99]
        row.append(f"{cell['p50'] / chain['p50']:.2f}" if chain else "–")
        rows.append(row)
    return rows


P50_P99 = ("p50", "p99")


def _context_rows(figures: Figures, size: int) -> list[list[str]]:
    rows = []
    for name, held in figures.contexts.items():
        one = held.get(size)
        if not isinstance(one, dict):
            rows.append([name, str(one), "–", "–", "–"])
            continue
        visible = number(1000 * one["visible_s"]) if "visible_s" in one else "–"
        rows.append(
            [
                name,
                number(1000 * one["first_use_s"]),
                number(1000 * one["search_s"]),
                number(one["anonymous_bytes"] / MIB),
                visible,
            ]
        )
    return rows


def _hazard_table(figures: Figures) -> tuple[list[str], list[list[str]]]:
    names = list(figures.hazards)
    kinds = list(next(iter(figures.hazards.values()), {}))
    rows = [
        [kind, *(_hazard_cell(figures.hazards[name][kind]) for name in names)] for kind in kinds
    ]
    return ["", *names], rows


def _hazard_cell(came: dict[str, Any]) -> str:
    if came["seconds"] is None:
        return f"{came['left']}: {came['said']}"
    return f"{came['left']}, {number(1000 * came['seconds'])}"


def aim_row(aim: Aim) -> list[str]:
    """A row under AIM_HEAD."""
    sign = "≥" if aim.at_least else "≤"
    verdict = "met" if aim.is_met else "missed"
    return [
        aim.name,
        f"{number(aim.measured)} {aim.unit}".strip(),
        f"{sign} {aim.aim:g} {aim.unit}".strip(),
        verdict,
    ]
