"""The figures of bench/faults as tables, as one object, and against the aims."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from faults_ours import Noticed
from sandbox_report import AIM_HEAD, Aim, aim_row, machine, number, table

KILL_MS, STOP_S = 50, 6
HEAD = ["", "times", "noticed", "first request sent again"]


@dataclass
class Figures:
    """All that one run of the bench has measured, in seconds."""

    anchor_s: list[float] = field(default_factory=list)
    faults: dict[str, list[Noticed]] = field(default_factory=dict)

    def as_object(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "bench": "faults",
            "machine": machine(),
            "connection_wait_s": self.anchor_s,
            "faults": {
                title: [asdict(each) for each in noticed] for title, noticed in self.faults.items()
            },
            "aims": [asdict(aim) for aim in aims(self)],
        }


def aims(figures: Figures) -> list[Aim]:
    """The median of kills, which wait for a core that is free; the slowest of freezes."""
    found = []
    for title, noticed in figures.faults.items():
        lost_s = [each.lost_s for each in noticed]
        if title.endswith("killed"):
            found.append(
                Aim(f"{title}: the median", 1e3 * statistics.median(lost_s), KILL_MS, "ms")
            )
        else:
            found.append(Aim(f"{title}: the slowest", max(lost_s), STOP_S, "s"))
    return found


def tables(figures: Figures) -> str:
    """All tables, in Markdown."""
    rows = []
    for title, noticed in figures.faults.items():
        lost, again = [n.lost_s for n in noticed], [n.resent_s for n in noticed]
        rows.append([title, str(len(noticed)), _range(lost), _range(again)])
    anchor = figures.anchor_s
    rows.append(["connection.wait: a child, killed", str(len(anchor)), _range(anchor), "–"])
    aimed = [aim_row(aim) for aim in aims(figures)]
    return table("From the signal", HEAD, rows) + "\n\n" + table("Aims", AIM_HEAD, aimed)


def _range(times_s: list[float]) -> str:
    """The median, and in brackets the least and the most."""
    factor, unit = (1e3, "ms") if max(times_s) < 1 else (1, "s")
    low, middle, high = (number(factor * f(times_s)) for f in (min, statistics.median, max))
    return f"{middle} {unit} ({low}–{high})"
