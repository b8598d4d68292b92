"""Family *hops*: things that went from hand to hand; the answer of one entry leads to the next."""

from itertools import pairwise
from random import Random

from distill.training.families.family import Family, Posed, Side, paragraphs

QUESTION = (
    "At first {person} had the {thing}. Whoever had it handed it on, until someone hid it. In "
    "which town was it hidden?"
)
LINKS = 3
"""Entries of a chain: two tell to whom it was handed on, the last where it was hidden."""
THINGS = "brass key,silver bell,sealed letter,small chest,carved staff,old map"
HANDED = (
    "Then {person} handed the {thing} on to {other}.",
    "It was from {person} that {other} had the {thing}.",
    "The {thing} was given to {other} by {person}.",
)
HIDDEN = (
    "In the end {person} hid the {thing} at {town}.",
    "At {town} the {thing} was hidden by {person}.",
)


class Hops(Family):
    """Several chains in one text, their entries in any order."""

    name = "hops"
    about = "things that went from hand to hand: one entry's answer leads to the next"
    entries = 9
    chars = 9 * 320
    fewest_entries = LINKS

    def pose(self, side: Side, entries: int, chars: int, chance: Random) -> Posed:
        """The first chain is asked about; the last one may be shorter."""
        people = chance.sample(side.inventions.people, entries)
        towns = iter(chance.sample(side.inventions.towns, -(-entries // LINKS)))
        told, asked = [], None
        for begin in range(0, entries, LINKS):
            chain, town = people[begin : begin + LINKS], next(towns)
            thing = chance.choice(THINGS.split(","))
            asked = asked or (QUESTION.format(person=chain[0], thing=thing), town)
            told += [
                chance.choice(HANDED).format(person=person, other=other, thing=thing)
                for person, other in pairwise(chain)
            ]
            told.append(chance.choice(HIDDEN).format(person=chain[-1], thing=thing, town=town))
        chance.shuffle(told)
        assert asked is not None
        return Posed(paragraphs(side, told, chars, chance), *asked)
