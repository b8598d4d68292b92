"""The figures of bench/turns as tables, as one object, and against the aims."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from sandbox_report import AIM_HEAD, Aim, aim_row, machine, number, table
from turns_contestant import Took

OURS, SDK, LOOP, RLMS = "distill", "the SDK alone", "a plain loop", "rlms"
CPU_MS, SHARE_PERCENT = 2.0, 5.0


@dataclass
class Figures:
    """All that one run of the bench has measured; blocks by contestant and runs at once."""

    turns: int
    latency_s: float
    blocks: dict[tuple[str, int], list[Took]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def as_object(self) -> dict[str, Any]:
        """For ``--json``; seconds are sums over the runs of a block."""
        return {
            "bench": "turns",
            "machine": machine(),
            "turns": self.turns,
            "latency_s": self.latency_s,
            "missing": self.missing,
            "blocks": [
                {"contestant": name, "runs": runs, "blocks": [_bare(each) for each in blocks]}
                for (name, runs), blocks in self.blocks.items()
            ],
            "aims": [asdict(aim) for aim in aims(self)],
        }

    @property
    def at_once(self) -> list[int]:
        """How many runs there were at once."""
        return sorted({runs for _, runs in self.blocks})

    def a_turn_ms(self, name: str, runs: int, seconds: str) -> list[float]:
        """Milliseconds a turn of one of its sums, by block; none where it is not known."""
        values = (getattr(block, seconds) for block in self.blocks.get((name, runs), []))
        return [1e3 * each / (runs * self.turns) for each in values if each is not None]

    def own_ms(self, runs: int) -> list[float]:
        """distill's processor time a turn without what it spent within the SDK."""
        pairs = zip(
            self.a_turn_ms(OURS, runs, "cpu_s"),
            self.a_turn_ms(OURS, runs, "sdk_cpu_s"),
            strict=True,
        )
        return [all_ms - sdk_ms for all_ms, sdk_ms in pairs]

    def over_sdk_ms(self, name: str, runs: int) -> list[float]:
        """Its processor time a turn over that of the SDK alone in the same round."""
        pairs = zip(
            self.a_turn_ms(name, runs, "cpu_s"), self.a_turn_ms(SDK, runs, "cpu_s"), strict=True
        )
        return [its_ms - sdk_ms for its_ms, sdk_ms in pairs]

    def shares(self, runs: int) -> list[float]:
        """Percent of distill's runs in which no model was waited for."""
        return [
            100 * (1 - block.model_s / block.run_s)
            for block in self.blocks.get((OURS, runs), [])
            if block.model_s is not None
        ]

    def start_shares(self, runs: int) -> list[float]:
        """Percent of distill's runs in which their jails were waited for."""
        return [
            100 * block.start_s / block.run_s
            for block in self.blocks.get((OURS, runs), [])
            if block.start_s is not None
        ]


def _bare(took: Took) -> dict[str, Any]:
    return {key: value for key, value in asdict(took).items() if key != "conversations"}


def aims(figures: Figures) -> list[Aim]:
    """The aims, for each number of runs at once."""
    found = []
    for runs in figures.at_once:
        name = f"{runs} at once" if runs > 1 else "one run"
        own, share = (statistics.median(f(runs)) for f in (figures.own_ms, figures.shares))
        found.append(Aim(f"{name}: distill's own CPU a turn", own, CPU_MS, "ms"))
        found.append(Aim(f"{name}: share of the run's time", share, SHARE_PERCENT, "%"))
    return found


HEAD = [
    "",
    "driver CPU",
    "of it in the SDK",
    "over the SDK alone",
    "keeper CPU",
    "jail CPU",
    "wall",
]


def tables(figures: Figures) -> str:
    """All tables, in Markdown."""
    parts = [
        table(
            _title(figures, runs),
            HEAD,
            [_row(figures, name, runs) for name in _names(figures, runs)],
        )
        for runs in figures.at_once
    ]
    shares = [
        [
            str(runs),
            *(_range(f(runs)) for f in (figures.own_ms, figures.shares, figures.start_shares)),
        ]
        for runs in figures.at_once
    ]
    head = ["runs at once", "own CPU a turn, ms", "% of the run's time", "of that: jails start, %"]
    parts.append(table("distill apart from the SDK", head, shares))
    parts.append(table("Aims", AIM_HEAD, [aim_row(aim) for aim in aims(figures)]))
    return "\n\n".join(parts)


def _names(figures: Figures, runs: int) -> list[str]:
    return [name for name in (OURS, SDK, LOOP, RLMS) if (name, runs) in figures.blocks]


def _title(figures: Figures, runs: int) -> str:
    at_once = f"{runs} runs at once" if runs > 1 else "One run"
    return (
        f"{at_once}, {figures.turns} turns each: ms a turn (replies take {figures.latency_s:g} s)"
    )


def _row(figures: Figures, name: str, runs: int) -> list[str]:
    wall = [each - 1e3 * figures.latency_s for each in figures.a_turn_ms(name, runs, "run_s")]
    return [
        name,
        _range(figures.a_turn_ms(name, runs, "cpu_s")),
        _range(figures.a_turn_ms(name, runs, "sdk_cpu_s")),
        "–" if name == SDK else _range(figures.over_sdk_ms(name, runs)),
        _range(figures.a_turn_ms(name, runs, "keeper_cpu_s")),
        _range(figures.a_turn_ms(name, runs, "jail_cpu_s")),
        _range(wall),
    ]


def _range(values: list[float]) -> str:
    """The median, and in brackets the least and the most."""
    if not values:
        return "–"
    low, middle, high = (f(values) for f in (min, statistics.median, max))
    return f"{number(middle)} ({number(low)}–{number(high)})"
