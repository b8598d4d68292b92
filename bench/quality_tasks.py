"""What bench/quality asks: made-up facts, in the text's own style, put into real text.

Names are made of syllables and occur nowhere in the text; the truth is what was put in. Each
task has a text of its own, which begins at a verse that its seed has chosen. The two halves,
"tune" and "test", share no template.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TEXT = Path(__file__).parent.parent / "examples" / "kjv.txt"
ORDINALS = ("", "Second ", "Third ")
KB, MB = 1_000, 1_000_000
CELLS = (
    *(("needle", 100 * KB), ("needle", MB), ("needle", 10 * MB)),
    *(("two hops", 100 * KB), ("two hops", MB), ("two hops", 10 * MB)),
    ("counting", 100 * KB),
)
"""Families of tasks, and the sizes of their texts in bytes."""
LEAST_COUNTED, MOST_COUNTED = 3, 12
APART = 0.1
"""The least distance of the two facts of a task with two hops, as a share of the text."""


@dataclass(frozen=True)
class Template:
    """Facts, the question about them, and its answer; braces are made-up values."""

    facts: tuple[str, ...]
    question: str
    answer: str


@dataclass(frozen=True)
class Task:
    """One question about one text; ``answers`` are all accepted spellings.

    ``facts`` are the verses that have been added to.
    """

    id: str
    family: str
    size_bytes: int
    text: str
    question: str
    answers: tuple[str, ...]
    facts: tuple[str, ...]


TEMPLATES = {
    ("needle", "test"): (
        Template(
            ("And {a} the {trade} had in those days {number} {animals}, which fed by {city}.",),
            "How many {animals} had {a} the {trade}?",
            "{number}",
        ),
        Template(
            ("Then {a} fled by night from the house of {b}, and hid himself in {city}.",),
            "In which city did {a} hide himself?",
            "{city}",
        ),
        Template(
            ("Now {a} took {b} the daughter of {c} to wife, and she bare him no son.",),
            "Whom did {a} take to wife?",
            "{b}",
        ),
        Template(
            ("And in that day {a} gave unto {b} a {thing} for an inheritance.",),
            "What did {a} give unto {b}?",
            "{thing}",
        ),
        Template(
            ("And {b} bought the field of {a} for {number} shekels of silver.",),
            "For how many shekels was the field of {a} bought?",
            "{number}",
        ),
    ),
    ("needle", "tune"): (
        Template(
            ("And {a} built {number} towers over against {city}, and fenced them.",),
            "How many towers did {a} build?",
            "{number}",
        ),
        Template(
            ("And {b} slew {a} at the waters of {city}, because of the oath.",),
            "Who slew {a}?",
            "{b}",
        ),
    ),
    ("two hops", "test"): (
        Template(
            (
                "And {a} the {trade} was a servant in the house of {b}.",
                "And {b} dwelt in the city of {city}, by the gate that looketh eastward.",
            ),
            "In which city dwelt the master of {a} the {trade}?",
            "{city}",
        ),
        Template(
            (
                "Now {a} was born in {city}, and there he learned the craft of his father.",
                "And the king that reigned over {city} in those days was called {b}.",
            ),
            "Who was the king over the city where {a} was born?",
            "{b}",
        ),
        Template(
            (
                "Now {a} took {b} to wife, and she bare him no son.",
                "And {b} had {number} {animals}, which her father had given her.",
            ),
            "How many {animals} had the wife of {a}?",
            "{number}",
        ),
    ),
    ("two hops", "tune"): (
        Template(
            (
                "And {a} sold his vineyard unto {b} the {trade}.",
                "And {b} the {trade} was slain by {c} in the valley.",
            ),
            "Who slew the man that bought the vineyard of {a}?",
            "{c}",
        ),
    ),
    ("counting", "test"): (
        Template(
            ("And {a} the son of {b} sailed in the ship {city}.",),
            "How many men sailed in the ship {city}?",
            "{count}",
        ),
        Template(
            ("And {a} the son of {b} was a keeper of the seal of {city}.",),
            "How many men were keepers of the seal of {city}?",
            "{count}",
        ),
    ),
    ("counting", "tune"): (
        Template(
            ("And {a} the son of {b} was cast into the pit of {city}.",),
            "How many men were cast into the pit of {city}?",
            "{count}",
        ),
    ),
}
TRADES = ("potter", "weaver", "smith", "tanner", "baker", "fuller")
ANIMALS = ("camels", "asses", "oxen", "goats", "mules")
THINGS = ("harp", "lamp", "sword", "shield", "ring", "girdle", "chariot", "mantle")
ONSETS = ("B", "D", "G", "H", "J", "K", "L", "M", "N", "P", "R", "S", "T", "Z", "Sh", "Th")
VOWELS = ("a", "e", "i", "o", "u", "ai")
ENDINGS = ("bar", "dan", "gath", "kin", "lim", "moth", "nok", "ram", "shur", "tov", "zek", "phar")
COUNTS = "one two three four five six seven eight nine ten eleven twelve".split()
NUMBERS = {
    "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17, "eighteen": 18,
    "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60,
    "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
"""Of one word each: of the text's own "ninety and six" the default worker reads "ten"."""


def tasks(
    split: str, count: int, seed: int, cells: Sequence[tuple[str, int]] = CELLS
) -> Iterator[Task]:
    """``count`` tasks of each cell; one of each in turn."""
    for number in range(count):
        for family, size_bytes in cells:
            yield make(split, family, size_bytes, number, seed)


def make(split: str, family: str, size_bytes: int, number: int, seed: int) -> Task:
    """One task; the same arguments make the same task."""
    name = f"{split}-{family}-{size_bytes}-{number}-{seed}".replace(" ", "-")
    chance = random.Random(name)
    templates = TEMPLATES[family, split]
    template = templates[number % len(templates)]
    lines = passage(size_bytes, chance)
    values = _values(chance)
    if family == "counting":
        count = chance.randint(LEAST_COUNTED, MOST_COUNTED)
        values["count"] = COUNTS[count - 1]
        people = chance.sample(_names(), 2 * count)
        facts = [
            template.facts[0].format(**(values | {"a": son, "b": father}))
            for son, father in zip(people[::2], people[1::2], strict=True)
        ]
        places = chance.sample(range(len(lines)), count)
        accepted: tuple[str, ...] = (COUNTS[count - 1], str(count))
    else:
        facts = [fact.format(**values) for fact in template.facts]
        places = _places(len(lines), len(facts), chance)
        accepted = spellings(template.answer.format(**values))
    for place, fact in zip(places, facts, strict=True):
        lines[place] += f" {fact}"
    text = "\n".join(lines) + "\n"
    question = template.question.format(**values)
    told = tuple(lines[place] for place in places)
    return Task(name, family, size_bytes, text, question, accepted, told)


def passage(size_bytes: int, chance: random.Random) -> list[str]:
    """Whole verses of about this size, from a verse that chance has chosen."""
    verses = _verses()
    room = sum(map(len, verses)) + len(verses) - size_bytes
    start, before = 0, 0
    stop_before = chance.randrange(max(room, 1))
    while before + len(verses[start]) < stop_before:
        before += len(verses[start]) + 1
        start += 1
    end, size = start, 0
    while end < len(verses) and size < size_bytes:
        size += len(verses[end]) + 1
        end += 1
    return list(verses[start:end])


@cache
def _verses() -> tuple[str, ...]:
    """The text's lines, and again with other references: its 4.5 MB are less than 10."""
    lines = TEXT.read_text("utf-8").splitlines()
    return tuple(f"{ordinal}{line}" for ordinal in ORDINALS for line in lines)


@cache
def _known_words() -> frozenset[str]:
    return frozenset(re.findall(r"\w+", TEXT.read_text("utf-8")))


def _places(lines: int, count: int, chance: random.Random) -> list[int]:
    while True:
        places = [chance.randrange(lines) for _ in range(count)]
        if count == 1 or abs(places[0] - places[1]) > APART * lines:
            return places


def _values(chance: random.Random) -> dict[str, str]:
    names = chance.sample(_names(), 4)
    return dict(zip(("a", "b", "c", "city"), names, strict=True)) | {
        "trade": chance.choice(TRADES),
        "animals": chance.choice(ANIMALS),
        "thing": chance.choice(THINGS),
        "number": chance.choice(list(NUMBERS)),
    }


@cache
def _names() -> tuple[str, ...]:
    """All names that can be made, and that the text does not have."""
    made = ("".join(parts) for parts in itertools.product(ONSETS, VOWELS, ENDINGS))
    return tuple(name for name in made if name not in _known_words())


def spellings(answer: str) -> tuple[str, ...]:
    """A number also in digits; all else as it is."""
    return (answer, str(NUMBERS[answer])) if answer in NUMBERS else (answer,)
