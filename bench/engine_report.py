"""The figures of bench/engine as tables, as one object, and against the aims."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from engine_models import Load
from engine_order import GROUPED, NAIVE, Prefill
from engine_process import ASYNC, CONTESTANTS, OURS
from sandbox_report import AIM_HEAD, Aim, aim_row, machine, number, table

THROUGHPUT_SHARE, PREFILL_SHARE = 0.97, 0.5
Block = dict[str, Any]


@dataclass
class Measured:
    """One model: the work of a block, and the blocks of each contestant."""

    load: Load
    blocks: dict[str, list[Block]]

    def of(self, name: str, figure: str) -> list[float]:
        """One figure of each block."""
        return [block[figure] for block in self.blocks[name]]

    def ratio(self, name: str) -> float:
        """Its tokens/s over bare AsyncLLM's: the median of the rounds, each with its own."""
        pairs = zip(self.of(name, "tokens_s"), self.of(ASYNC, "tokens_s"), strict=True)
        return statistics.median(a / b for a, b in pairs)

    def same(self, name: str) -> float:
        """Which share of its answers are bare AsyncLLM's, text and token counts."""
        pairs = [
            one == other
            for mine, theirs in zip(self.blocks[name], self.blocks[ASYNC], strict=True)
            for one, other in zip(mine["answers"], theirs["answers"], strict=True)
        ]
        return sum(pairs) / len(pairs)


@dataclass
class Figures:
    """All that one run of the bench has measured; ``prefill`` is by order, a batch a round."""

    models: dict[str, Measured] = field(default_factory=dict)
    cache_tokens: int = 0
    prefill: dict[str, list[Prefill]] = field(default_factory=dict)

    def as_object(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "bench": "engine",
            "machine": machine(),
            "models": [
                {
                    "model": name,
                    "load": asdict(measured.load),
                    "blocks": {
                        each: [{k: v for k, v in block.items() if k != "answers"} for block in took]
                        for each, took in measured.blocks.items()
                    },
                }
                for name, measured in self.models.items()
            ],
            "cache_tokens": self.cache_tokens,
            "prefill": {
                name: [asdict(each) for each in batches] for name, batches in self.prefill.items()
            },
            "aims": [asdict(aim) for aim in aims(self)],
        }

    def prefill_share(self) -> float:
        """Prompt tokens computed in distill's order over those in the naive one."""
        pairs = zip(self.prefill[GROUPED], self.prefill[NAIVE], strict=True)
        return statistics.median(a.computed_share / b.computed_share for a, b in pairs)


def aims(figures: Figures) -> list[Aim]:
    """The aims that could be judged by what was measured."""
    found = [
        Aim(f"{name}: tokens/s over {ASYNC}'s", each.ratio(OURS), THROUGHPUT_SHARE, "×", True)
        for name, each in figures.models.items()
    ]
    if figures.prefill:
        title = f"{GROUPED}: prompt tokens computed over those {NAIVE}"
        found.append(Aim(title, figures.prefill_share(), PREFILL_SHARE, "×"))
    return found


def tables(figures: Figures) -> str:
    """All tables, in Markdown."""
    parts = [
        table(_title(name, each.load), HEAD, [_row(each, one) for one in CONTESTANTS])
        for name, each in figures.models.items()
    ]
    if figures.prefill:
        title = f"Prompt tokens of one batch; a worker caches {figures.cache_tokens:,}"
        parts.append(table(title, PREFILL_HEAD, _prefill_rows(figures)))
    parts.append(table("Aims", AIM_HEAD, [aim_row(aim) for aim in aims(figures)]))
    return "\n\n".join(parts)


HEAD = ["", "requests/s", "tokens/s", "CPU ms a request", f"over {ASYNC}", "same answers"]
PREFILL_HEAD = ["", "in all", "computed", "share"]


def _title(name: str, load: Load) -> str:
    return (
        f"{name}: {load.count} prompts of {load.prompt_chars:,} characters, "
        f"{load.answer_tokens} tokens each"
    )


def _row(measured: Measured, name: str) -> list[str]:
    figures = ("requests_s", "tokens_s", "cpu_ms")
    return [
        name,
        *(_range(measured.of(name, figure)) for figure in figures),
        "–" if name == ASYNC else f"{measured.ratio(name):.3f} ×",
        "–" if name == ASYNC else f"{measured.same(name):.1%}",
    ]


def _prefill_rows(figures: Figures) -> list[list[str]]:
    return [
        [
            name,
            f"{statistics.median(each.prompt_tokens for each in batches):,.0f}",
            f"{statistics.median(each.computed_tokens for each in batches):,.0f}",
            f"{statistics.median(each.computed_share for each in batches):.2f}",
        ]
        for name, batches in figures.prefill.items()
    ]


def _range(values: list[float]) -> str:
    """The median, and in brackets the least and the most."""
    low, middle, high = (f(values) for f in (min, statistics.median, max))
    return f"{number(middle)} ({number(low)}–{number(high)})"
