"""Family *ledger*: purchases, one in each paragraph, and questions that a few lines of code answer.

What it is for is the supervisor: five kinds of question in three wordings each, and a program of
its own for each kind. Both are in ``supervisor/programs/ledger.py``, which is also the recipe.
"""

from dataclasses import dataclass
from random import Random

from distill.supervisor.programs.ledger import KINDS
from distill.training.families.family import Family, Posed, Side, paragraphs

FEWEST_MARKS, MOST_MARKS = 21, 400
BUYERS_OF_A_TOWN = 4
"""How many there are on average."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """Who of which town bought what, for how much."""

    buyer: str
    town: str
    goods: str
    marks: int

    @property
    def told(self) -> str:
        """As an entry says it."""
        return f"{self.buyer} of {self.town} bought {self.goods} for {self.marks} marks."


class Ledger(Family):
    """Look-ups, counts and sums over entries."""

    name = "ledger"
    about = "purchases, to be looked up and added up by a program of the question"
    entries = 16
    chars = 16 * 240
    fewest_entries = 4

    def pose(self, side: Side, entries: int, chars: int, chance: Random) -> Posed:
        """Each buyer has one entry, each price is another."""
        towns = chance.sample(side.inventions.towns, max(1, entries // BUYERS_OF_A_TOWN))
        purchases = [
            Purchase(buyer, chance.choice(towns), chance.choice(side.inventions.goods), marks)
            for buyer, marks in zip(
                chance.sample(side.inventions.people, entries),
                chance.sample(range(FEWEST_MARKS, MOST_MARKS), entries),
                strict=True,
            )
        ]
        text = paragraphs(side, [each.told for each in purchases], chars, chance)
        kind = chance.choice(sorted(KINDS))
        asked = chance.choice(purchases)
        person = f"{asked.buyer} of {asked.town}"
        wording = chance.choice(KINDS[kind].wordings)
        query = wording.format(person=person, town=asked.town)
        return Posed(text, query, answer(kind, asked, purchases))


def answer(kind: str, asked: Purchase, purchases: list[Purchase]) -> str:
    """What is true, of the one purchase or of all of its town."""
    of_town = [each for each in purchases if each.town == asked.town]
    answers = {
        "price": str(asked.marks),
        "goods": asked.goods,
        "count": str(len(of_town)),
        "sum": str(sum(each.marks for each in of_town)),
        "most": max(of_town, key=lambda each: each.marks).buyer,
    }
    return answers[kind]
