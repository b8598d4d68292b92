"""The figures of bench/quality as tables and as one object."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from quality_process import CONTESTANTS
from sandbox_report import machine, number, table

from distill.intervals import wilson

Cell = tuple[str, int]
"""A family of tasks, and the size of the texts."""


@dataclass(frozen=True)
class Row:
    """What one contestant made of one task; ``seconds`` None: others had warmed the engine."""

    task: str
    family: str
    size_bytes: int
    contestant: str
    question: str
    wanted: str
    answer: str | None
    right: bool
    calls: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float | None
    error: str | None = None


@dataclass
class Figures:
    """All that one run of the bench has measured."""

    split: str
    seed: int
    window_tokens: int
    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> list[Cell]:
        """Those that were asked, in order."""
        return list(dict.fromkeys((row.family, row.size_bytes) for row in self.rows))

    @property
    def contestants(self) -> list[str]:
        """Those that were measured, in order."""
        there = {row.contestant for row in self.rows}
        return [name for name in CONTESTANTS if name in there]

    def of(self, contestant: str, cell: Cell | None = None) -> list[Row]:
        """Its rows, of one cell or of all."""
        return [
            row
            for row in self.rows
            if row.contestant == contestant and cell in (None, (row.family, row.size_bytes))
        ]

    def same(self, one: str, other: str) -> tuple[int, int]:
        """In how many tasks two contestants gave the same answer, and of how many."""
        said = {row.task: row.answer for row in self.of(one)}
        pairs = [(said[row.task], row.answer) for row in self.of(other) if row.task in said]
        return sum(a == b for a, b in pairs), len(pairs)

    def as_object(self) -> dict[str, Any]:
        """For ``--json``; shares of 1 with the bounds of a 95 % interval, times in seconds."""
        return {
            "bench": "quality",
            "machine": machine(),
            "split": self.split,
            "seed": self.seed,
            "window_tokens": self.window_tokens,
            "missing": self.missing,
            "cells": [
                {"family": cell[0], "size_bytes": cell[1], "contestant": name}
                | accuracy(self.of(name, cell))
                for cell in self.cells
                for name in self.contestants
                if self.of(name, cell)
            ],
            "rows": [asdict(row) for row in self.rows],
        }


def accuracy(rows: list[Row]) -> dict[str, Any]:
    """How many are right, and Wilson's 95 % interval of the share."""
    right, count = sum(row.right for row in rows), len(rows)
    low, high = wilson(right / count, count)
    return {"right": right, "count": count, "low": low, "high": high}


def size_name(size_bytes: int) -> str:
    """As people say it."""
    return f"{size_bytes // 10**6} MB" if size_bytes >= 10**6 else f"{size_bytes // 1000} kB"


def tables(figures: Figures) -> str:
    """All tables, in Markdown."""
    heads = [f"{family}, {size_name(size)}" for family, size in figures.cells]
    return "\n\n".join(
        [
            table("Right answers", ["", *heads], [_right(figures, n) for n in figures.contestants]),
            table("Over all sizes", _family_head(figures), _family_rows(figures)),
            table("What a question costs", COST_HEAD, _costs(figures)),
        ]
    )


def _right(figures: Figures, name: str) -> list[str]:
    return [name, *(_share(figures.of(name, cell)) for cell in figures.cells)]


def _share(rows: list[Row]) -> str:
    if not rows:
        return "–"
    found = accuracy(rows)
    return f"{found['right']} of {found['count']}"


def _with_interval(rows: list[Row]) -> str:
    if not rows:
        return "–"
    found = accuracy(rows)
    return f"{_share(rows)} ({found['low']:.0%}–{found['high']:.0%})"


def families(figures: Figures) -> list[str]:
    """The families of tasks, in order."""
    return list(dict.fromkeys(family for family, _ in figures.cells))


def _family_head(figures: Figures) -> list[str]:
    return ["", *families(figures)]


def _family_rows(figures: Figures) -> list[list[str]]:
    return [
        [
            name,
            *(
                _with_interval([row for row in figures.of(name) if row.family == family])
                for family in families(figures)
            ),
        ]
        for name in figures.contestants
    ]


COST_HEAD = ["", "worker calls", "prompt tokens", "completion tokens", "seconds", "at 10 MB"]


def _costs(figures: Figures) -> list[list[str]]:
    rows = []
    for name in figures.contestants:
        its = figures.of(name)
        means = [
            number(statistics.mean(getattr(row, key) for row in its))
            for key in ("calls", "prompt_tokens", "completion_tokens")
        ]
        largest = [row for row in its if row.size_bytes >= 10**7]
        rows.append([name, *means, _seconds(its), _seconds(largest)])
    return rows


def seconds(rows: list[Row]) -> list[float]:
    """Those times that count."""
    return sorted(row.seconds for row in rows if row.seconds is not None)


def _seconds(rows: list[Row]) -> str:
    """The median, and in brackets the least and the most."""
    times = seconds(rows)
    if not times:
        return "–"
    low, high = times[0], times[-1]
    return f"{number(statistics.median(times))} ({number(low)}–{number(high)}, n={len(times)})"
