"""How a run talks with its supervisor model: the names in its REPL, and the words around its code.

``native`` is distill's own; ``brief`` is the same with fewer words at first, for small models that
were trained on its code. ``rlm`` is that of Recursive Language Models (docs/rlm.md): models that
were trained on them, and code that was written for them, find there what they know.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distill.supervisor.reply import Reply, Said

DialectName = Literal["native", "brief", "rlm"]
NONE_LEFT = {
    "turns": "There are no turns left.",
    "worker_calls": "There are no worker calls left.",
    "tokens": "There are no tokens left for another turn.",
    "dollars": "There is no money left for another turn.",
    "gpu_s": "There is no GPU time left.",
    "wall_s": "There is no time left.",
}
"""What the model is told, by the budget that is used up."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One of them. All of it is a pure function of its arguments: runs are resumed by it."""

    name: DialectName
    output_limit: int
    """Characters of a cell's output that the model sees, unless the user says otherwise."""
    read: Callable[[Said], Reply]
    """The code in a reply."""
    shown: Callable[[Sequence[Any], int], list[str]]
    """What the model is told of the cells that ran, of so many blocks."""
    no_code: str
    """What it is told of a reply without code; ``{problem}`` is why there is none."""
    closing: Callable[[int, int, str | None], list[str]]
    """How the message after this turn ends, of so many turns, and if a budget (of NONE_LEFT) has
    ended them."""
    names: frozenset[str] = frozenset()
    """Those that the prelude makes: no primitive can have them."""
    primitives: Mapping[str, str] = field(default_factory=dict)
    """Ready primitives that the prelude uses."""
    prelude: str = ""
    """A cell that runs before the first turn and makes the dialect's names."""
    turn_apart: bool = False
    """Whether the closing is a message of its own, as long as there are turns left."""


def dialect(name: DialectName) -> Dialect:
    """The dialect of this name."""
    from distill.supervisor.dialects import native, rlm

    return {"native": native.NATIVE, "brief": native.BRIEF, "rlm": rlm.RLM}[name]
