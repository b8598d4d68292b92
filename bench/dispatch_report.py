"""The figures of bench/dispatch as tables, as one object, and against the aims."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from dispatch_process import BATCHED, ECHO, OPENAI, OURS, VLLM
from sandbox_report import AIM_HEAD, Aim, aim_row, machine, number, table

DRIVER_US = 60


@dataclass
class Figures:
    """All that one run of the bench has measured; blocks by contestant and prompt size."""

    blocks: dict[tuple[str, int], list[dict[str, float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def as_object(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "bench": "dispatch",
            "machine": machine(),
            "missing": self.missing,
            "blocks": [
                {"contestant": name, "size_bytes": size, "blocks": blocks}
                for (name, size), blocks in self.blocks.items()
            ],
            "aims": [asdict(aim) for aim in aims(self)],
        }

    @property
    def sizes_bytes(self) -> list[int]:
        """The prompt sizes."""
        return sorted({size for _, size in self.blocks})

    def of(self, name: str, size_bytes: int, figure: str) -> list[float]:
        """One figure of each block; none for a contestant that was missing."""
        return [block[figure] for block in self.blocks.get((name, size_bytes), [])]

    def ratio(self, name: str, size_bytes: int) -> float | None:
        """Our requests/s over another's: the median of the rounds, each with its own."""
        ours, theirs = (self.of(one, size_bytes, "requests_s") for one in (OURS, name))
        if not theirs:
            return None
        return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def aims(figures: Figures) -> list[Aim]:
    """The aims that could be judged by what was measured."""
    found = []
    for size in figures.sizes_bytes:
        for name, least in ((ECHO, 0.5), (VLLM, 1.0), (OPENAI, 40.0)):
            ratio = figures.ratio(name, size)
            if ratio is not None:
                title = f"{size:,} bytes: requests/s over {name}'s"
                found.append(Aim(title, ratio, least, "×", at_least=True))
        driver_us = statistics.median(figures.of(OURS, size, "driver_us"))
        found.append(Aim(f"{size:,} bytes: driver CPU a request", driver_us, DRIVER_US, "µs"))
    return found


def tables(figures: Figures) -> str:
    """All tables, in Markdown."""
    return "\n\n".join(
        [
            *(
                table(f"Prompts of {size:,} bytes", HEAD, _rows(figures, size))
                for size in figures.sizes_bytes
            ),
            table("Aims", AIM_HEAD, [aim_row(aim) for aim in aims(figures)]),
        ]
    )


HEAD = ["", "requests/s", "driver µs a request", "peer µs a request", "distill over it"]


def _rows(figures: Figures, size_bytes: int) -> list[list[str]]:
    rows = []
    for name in (OURS, ECHO, BATCHED, VLLM, OPENAI):
        if (name, size_bytes) not in figures.blocks:
            continue
        columns = [
            _range(figures.of(name, size_bytes, figure))
            for figure in ("requests_s", "driver_us", "peer_us")
        ]
        ratio = figures.ratio(name, size_bytes)
        rows.append([name, *columns, "–" if name == OURS else f"{ratio:.3g} ×"])
    return rows


def _range(values: list[float]) -> str:
    """The median, and in brackets the least and the most."""
    low, middle, high = (f(values) for f in (min, statistics.median, max))
    return f"{number(middle)} ({number(low)}–{number(high)})"
