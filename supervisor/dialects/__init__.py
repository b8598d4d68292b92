"""How a run talks with its supervisor model: the names in its REPL, and the words around its code.

``native`` is distill's own. ``rlm`` is that of Recursive Language Models (docs/rlm.md): models that
were trained on them, and code that was written for them, find there what they know.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distill.supervisor.reply import Reply

DialectName = Literal["native", "rlm"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One of them. All of it is a pure function of its arguments: runs are resumed by it."""

    name: DialectName
    output_limit: int
    """Characters of a cell's output that the model sees, unless the user says otherwise."""
    read: Callable[[str], Reply]
    """The code in a reply."""
    shown: Callable[[Sequence[Any], int], list[str]]
    """What the model is told of the cells that ran, of so many blocks."""
    no_code: str
    """What it is told of a reply without code; ``{problem}`` is why there is none."""
    closing: Callable[[int, int], list[str]]
    """How the message after this turn ends, of so many turns."""
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

    return {"native": native.NATIVE, "rlm": rlm.RLM}[name]
