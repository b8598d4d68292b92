"""Made-up people, towns and goods: each belongs to one side, whatever the seed."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import product
from random import Random
from typing import Literal, get_args

SideName = Literal["train", "test"]
SIDES: tuple[SideName, ...] = get_args(SideName)

PEOPLE = (
    "Bel Bro Dag Dor Ern Fal Gad Gor Hal Hed Jor Kel Kor Lam Mel Mor Nar Ost Pel Rav Ron Sel Sig "
    "Tal Tor Ulf Var Vel Wil Yor".split(),
    ["", "a", "i"],
    "bert dan dis gar gild lan lin mar mund nor rik sa sil stan tha thor van vik wen zo".split(),
)
TOWNS = (
    "Ash Bram Cald Den Elm Fen Grim Har Ing Kirk Lang Mos Nor Oak Pen Rad Scar Thorn Ux Whit "
    "Yar".split(),
    ["", "er", "le"],
    "ham by wick ford mere stow den ley thorpe burn gate holm".split(),
)
GOODS = (
    "sacks barrels bolts casks jars bundles crates baskets rolls loads boxes coils".split(),
    "barley tar linen ale honey flax apples eels wool peat nails salt wine oak hay butter wax rope "
    "copper iron".split(),
)


def side_of(invented: str) -> SideName:
    """Where it belongs: by its hash, so that test documents of one seed are new to a worker that
    was trained on those of another.
    """
    return "test" if hashlib.sha256(invented.encode()).digest()[0] % 2 else "train"


class Inventions:
    """What a side may name. None of it stands in ``text``, the filler of both sides."""

    def __init__(self, side: SideName, text: str) -> None:
        words = set(re.findall(r"\w+", text))
        self.people = _own(side, map("".join, product(*PEOPLE)), words)
        self.towns = _own(side, map("".join, product(*TOWNS)), words)
        self.goods = _own(side, map(" of ".join, product(*GOODS)), words)


def _own(side: SideName, invented: Iterable[str], words: set[str]) -> Sequence[str]:
    return [each for each in invented if side_of(each) == side and each not in words]


def marks(chance: Random) -> int:
    """A price: two or three digits, so that no other number of a record looks like it by chance."""
    return chance.randrange(21, 400)
