"""Family *needle*: made-up facts hidden in a long text, of which one is asked for."""

from random import Random

from distill.training.families.family import Family, Posed, Side

QUESTION = "In which town does {person} keep the {thing}?"
THINGS = "old seal,red book,brass key,silver bell,long sword,carved chair,blue cloak,stone lamp"
WORDINGS = (
    "The {thing} of {person} is kept at {town}.",
    "It is at {town} that {person} keeps the {thing}.",
    "And {person} has hidden the {thing} in the town of {town}.",
)


class Needle(Family):
    """Facts alike, each of another person; the rest of the text has nothing to do with them."""

    name = "needle"
    about = "made-up facts hidden in a long text, of which one is asked for"
    entries = 3
    chars = 20_000

    def pose(self, side: Side, entries: int, chars: int, chance: Random) -> Posed:
        """The sentences stand one a line."""
        people = chance.sample(side.inventions.people, entries)
        towns = chance.sample(side.inventions.towns, entries)
        things = [chance.choice(THINGS.split(",")) for _ in people]
        facts = [
            chance.choice(WORDINGS).format(person=person, town=town, thing=thing)
            for person, town, thing in zip(people, towns, things, strict=True)
        ]
        at = chance.randrange(entries)
        return Posed(
            side.filler.passage(chance, chars, *facts, between="\n"),
            QUESTION.format(person=people[at], thing=things[at]),
            towns[at],
        )
