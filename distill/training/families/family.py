"""What a family of tasks is: the contract between ``writing`` and the modules beside this one.

A family is a class, listed in ``FAMILIES`` of ``__init__``. It gets a side (its stretch of the
filler text, its names), the sizes and a source of chance, and gives back one document with a
question and the exact answer. It uses no other chance, so the same seed gives the same bytes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from distill.training.families.filler import Filler
from distill.training.families.inventions import Inventions

APART = "\n\n"
"""Between two entries, and nowhere in one."""


@dataclass(frozen=True, slots=True)
class Side:
    """``train`` or ``test``: what its documents are made of, none of which the other side has."""

    name: str
    filler: Filler
    inventions: Inventions


@dataclass(frozen=True, slots=True)
class Posed:
    """A document, a question about it, and the answer."""

    context: str
    query: str
    label: str


def paragraphs(side: Side, told: Sequence[str], chars: int, chance: Random) -> str:
    """A document of ``chars`` or a little less: each of ``told`` in an entry of filler."""
    room = (chars - len(APART) * (len(told) - 1)) // len(told)
    return APART.join(side.filler.passage(chance, room, each) for each in told)


class Family(ABC):
    """One kind of task. ``entries`` and ``chars`` are the sizes unless said."""

    name: ClassVar[str]
    about: ClassVar[str]
    """One line, as --help of the command has it, too."""
    version: ClassVar[int] = 1
    """Raised when the same seed gives other bytes."""
    entries: ClassVar[int]
    chars: ClassVar[int]
    fewest_entries: ClassVar[int] = 1

    @abstractmethod
    def pose(self, side: Side, entries: int, chars: int, chance: Random) -> Posed:
        """A document of so many entries, of ``chars`` characters or a little less."""
