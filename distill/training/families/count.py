"""Family *count*: petitions in prose, each with how it ended; how many ended in one way?"""

from random import Random

from distill.training.families.family import Family, Posed, Side, paragraphs

QUESTION = "How many of the petitions were {ending}? Give the number alone."
ENDINGS = {
    "granted": (
        "The petition of {person} of {town} was granted.",
        "They granted what {person} of {town} had asked for.",
    ),
    "refused": (
        "The petition of {person} of {town} was refused.",
        "They refused what {person} of {town} had asked for.",
    ),
    "withdrawn": (
        "The petition of {person} of {town} was withdrawn.",
        "But {person} of {town} has withdrawn the petition.",
    ),
}


class Count(Family):
    """Labelled counting: each entry has to be read, and no one answer can be found in the text."""

    name = "count"
    about = "petitions in prose, each with how it ended, to be counted"
    entries = 12
    chars = 12 * 320

    def pose(self, side: Side, entries: int, chars: int, chance: Random) -> Posed:
        """Each petition is of a person of their own."""
        ended = [chance.choice(list(ENDINGS)) for _ in range(entries)]
        told = [
            chance.choice(ENDINGS[ending]).format(
                person=person, town=chance.choice(side.inventions.towns)
            )
            for ending, person in zip(
                ended, chance.sample(side.inventions.people, entries), strict=True
            )
        ]
        asked = chance.choice(list(ENDINGS))
        return Posed(
            paragraphs(side, told, chars, chance),
            QUESTION.format(ending=asked),
            str(ended.count(asked)),
        )
