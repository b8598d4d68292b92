"""The figures of bench/logs as tables, as one object, and against the aims."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from logs_reading import Took
from logs_writing import Wrote
from sandbox_report import AIM_HEAD, Aim, aim_row, machine, number, table

OURS, JSON, STRUCTLOG = "distill's journal", "plain json", "structlog"
CALLS_A_SECOND = 10_000
SHARE_PERCENT = 2.0
OPEN_S, OPEN_CALLS = 5.0, 100_000


@dataclass
class Figures:
    """All that one run of the bench has measured: rounds by what was done.

    ``anchors`` are microseconds a line; with token ids or without is the second of a key.
    """

    calls: int
    wrote: dict[bool, list[Wrote]] = field(default_factory=dict)
    anchors: dict[tuple[str, bool], list[float]] = field(default_factory=dict)
    took: dict[str, list[Took]] = field(default_factory=dict)
    log_bytes: int = 0
    missing: dict[str, str] = field(default_factory=dict)

    def write_us(self, *, ids: bool) -> list[float]:
        """Microseconds of processor time for the writing of one line."""
        return [1e6 * each.write_s / each.answers for each in self.wrote.get(ids, [])]

    def make_us(self, *, ids: bool) -> list[float]:
        """The same, for the making of its line: texts and ids as JSON, all its fields."""
        rounds = self.wrote.get(ids, [])
        return [1e6 * (each.make_s - each.find_s) / each.answers for each in rounds]

    def find_us(self, *, ids: bool) -> list[float]:
        """The same, for finding in the context what its prompt holds of it."""
        return [1e6 * each.find_s / each.answers for each in self.wrote.get(ids, [])]

    def as_object(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "bench": "logs",
            "machine": machine(),
            "missing": self.missing,
            "wrote": [
                {"ids": ids, "rounds": [asdict(each) for each in rounds]}
                for ids, rounds in self.wrote.items()
            ],
            "anchors_us": [
                {"anchor": name, "ids": ids, "rounds": rounds}
                for (name, ids), rounds in self.anchors.items()
            ],
            "log_bytes": self.log_bytes,
            "took": {name: [asdict(each) for each in rounds] for name, rounds in self.took.items()},
            "aims": [asdict(aim) for aim in aims(self)],
        }


def share_percent(us: float) -> float:
    """Percent of one processor core, at CALLS_A_SECOND lines of so many microseconds each."""
    return us * CALLS_A_SECOND / 1e6 * 100


def aims(figures: Figures) -> list[Aim]:
    """The aims that could be judged by what was measured."""
    found = []
    if figures.wrote.get(False):
        share = share_percent(statistics.median(figures.write_us(ids=False)))
        found.append(Aim("writing 10,000 calls/s of 1 kB", share, SHARE_PERCENT, "% of a core"))
    for name in ("Logs.calls()", "read()", "frame()"):
        if figures.calls == OPEN_CALLS and (rounds := figures.took.get(name)):
            wall_s = statistics.median(each.wall_s for each in rounds)
            found.append(Aim(f"{OPEN_CALLS:,} calls by {name}", wall_s, OPEN_S, "s"))
    return found


WRITE_HEAD = ["", "token ids", "bytes a line", "µs a line", "% of a core at 10,000/s"]
READ_HEAD = ["", "s", "CPU, s", "memory at most, MiB"]


def tables(figures: Figures) -> str:
    """All tables, in Markdown."""
    size = f"{figures.log_bytes / 1e6:.0f} MB"
    reads = [
        [name, *(_range([getattr(each, key) for each in rounds]) for key in _TOOK)]
        for name, rounds in figures.took.items()
    ]
    return "\n\n".join(
        [
            table("Writing the lines of answers (processor time)", WRITE_HEAD, _writes(figures)),
            table(f"Opening and exporting {figures.calls:,} calls, {size}", READ_HEAD, reads),
            table("Aims", AIM_HEAD, [aim_row(aim) for aim in aims(figures)]),
        ]
    )


_TOOK = ("wall_s", "cpu_s", "peak_mib")


def _writes(figures: Figures) -> list[list[str]]:
    rows = []
    for ids, rounds in figures.wrote.items():
        line = [("yes" if ids else "no"), f"{rounds[0].line_bytes:,}"]
        rows.append([OURS, *line, *_cost(figures.write_us(ids=ids))])
        rows.append(["before: making the record", *line, *_cost(figures.make_us(ids=ids))])
        rows.append(["before: finding the chunk", *line, *_cost(figures.find_us(ids=ids))])
        anchors = {name: figures.anchors.get((name, ids)) for name in (JSON, STRUCTLOG)}
        rows += [[name, *line, *_cost(us)] for name, us in anchors.items() if us]
    return rows


def _cost(us: list[float]) -> list[str]:
    return [_range(us), _range([share_percent(each) for each in us])]


def _range(values: list[float]) -> str:
    """The median, and in brackets the least and the most."""
    low, middle, high = (f(values) for f in (min, statistics.median, max))
    return f"{number(middle)} ({number(low)}–{number(high)})"
