"""Family *extract*: purchases told in prose, each to be given back in one strict line.

An entry is a paragraph of filler with one record in it. About a document with one entry the
question is that record; about one with several, what one of the buyers paid: the code has to
find the entry, and a worker has to read it. ``supervisor/recipes/extract.py`` does both.
"""

from dataclasses import dataclass
from random import Random

from distill.training.families.family import Family, Posed, Side, paragraphs
from distill.training.families.inventions import marks

FORM = "buyer=…; town=…; goods=…; marks=…"
THE_RECORD = f"Give the purchase in this text in one line, as {FORM} with a full stop"
WHAT_ONE_PAID = "How many marks did {buyer} of {town} pay? Give the number alone."

# The seller has no town, and no other number stands before "marks": each field has one answer.
WORDINGS = (
    "In that year {buyer} of {town} paid {marks} marks to {seller} for {goods}.",
    "At the autumn fair {buyer} of {town} bought {goods} from {seller} for {marks} marks.",
    "It is written that {buyer} of {town} bought {goods} and paid {marks} marks.",
    "Then {buyer} of {town} gave {marks} marks for {goods}.",
)


@dataclass(frozen=True, slots=True)
class Record:
    """One purchase."""

    buyer: str
    town: str
    goods: str
    marks: int

    @property
    def line(self) -> str:
        """As a worker is to give it."""
        return f"buyer={self.buyer}; town={self.town}; goods={self.goods}; marks={self.marks}."

    def told(self, seller: str, chance: Random) -> str:
        """As prose."""
        return chance.choice(WORDINGS).format(
            buyer=self.buyer, town=self.town, goods=self.goods, marks=self.marks, seller=seller
        )


class Extract(Family):
    """Key-value extraction with a strict format."""

    name = "extract"
    about = "records in prose, to be given back in one strict line"
    entries = 1
    chars = 320

    def pose(self, side: Side, entries: int, chars: int, chance: Random) -> Posed:
        """Each buyer and each seller of a document has a name of their own."""
        people = chance.sample(side.inventions.people, 2 * entries)
        records = [
            Record(
                buyer,
                chance.choice(side.inventions.towns),
                chance.choice(side.inventions.goods),
                marks(chance),
            )
            for buyer in people[:entries]
        ]
        told = [
            record.told(seller, chance)
            for record, seller in zip(records, people[entries:], strict=True)
        ]
        context = paragraphs(side, told, chars, chance)
        if entries == 1:
            return Posed(context, THE_RECORD, records[0].line)
        asked = chance.choice(records)
        question = WHAT_ONE_PAID.format(buyer=asked.buyer, town=asked.town)
        return Posed(context, question, str(asked.marks))
