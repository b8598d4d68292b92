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
    "ale almonds apples barley beans beef brass bread bricks butter candles chalk charcoal cheese "
    "cider clay cloth cloves coal copper corn cotton eels eggs feathers figs fish flax furs garlic "
    "ginger grain hay hemp herbs herring honey hops horses iron lace lamps lard lead lemons lime "
    "linen malt milk mustard nails nets nuts oak oats oil olives onions paint paper peas pears "
    "peat pepper pitch plums rice rope rye saffron salmon salt sand seeds sheep silk silver slate "
    "soap spoons steel stone straw sugar tar tea tiles timber tin turnips vinegar walnuts wax "
    "wheat wine wood wool yarn".split()
)
"""One word each: small workers copy one without mistake, and of several they make others."""


def side_of(invented: str) -> SideName:
    """Where it belongs: by its hash, so that test documents of one seed are new to a worker that
    was trained on those of another.
    """
    return "test" if hashlib.sha256(invented.encode()).digest()[0] % 2 else "train"


class Inventions:
    """What a side may name. No name stands in ``text``, the filler of both sides."""

    def __init__(self, side: SideName, text: str) -> None:
        words = set(re.findall(r"\w+", text))
        self.people = _own(side, map("".join, product(*PEOPLE)), words)
        self.towns = _own(side, map("".join, product(*TOWNS)), words)
        self.goods = _own(side, GOODS, set())


def _own(side: SideName, invented: Iterable[str], words: set[str]) -> Sequence[str]:
    return [each for each in invented if side_of(each) == side and each not in words]


def marks(chance: Random) -> int:
    """A price: two or three digits, so that no other number of a record looks like it by chance."""
    return chance.randrange(21, 400)
