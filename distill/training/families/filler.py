"""The text that a document is padded with: real prose, of which each side has its own stretch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from distill.errors import InputError

LABEL = re.compile(r"^(?:\d )?[A-Z][A-Za-z ]{1,30} \d+:\d+ ")
"""`Book 3:16` before a verse: no prose, and a name and two numbers that nobody asked for."""
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
WORD_CHARS = 40
"""A passage is at most so much shorter than asked for: it ends with a whole word."""
FEWEST_CHARS = 20_000
"""Of a side: documents that all say the same teach nothing."""


@dataclass(frozen=True, slots=True)
class Filler:
    """Sentences, in the order of the text."""

    sentences: Sequence[str]

    def passage(self, chance: Random, chars: int, *inserted: str, between: str = " ") -> str:
        """Prose with each of ``inserted`` between two sentences, in any order.

        At most ``chars`` long, and at most ``WORD_CHARS`` shorter.
        """
        room = chars - sum(len(each) + 1 for each in inserted)
        parts = self._prose(chance, room)
        for each in inserted:
            parts.insert(chance.randrange(len(parts) + 1), each)
        return between.join(parts)

    def _prose(self, chance: Random, chars: int) -> list[str]:
        at, parts, room = chance.randrange(len(self.sentences)), [], chars
        while room > WORD_CHARS // 2:
            sentence = _within(self.sentences[at % len(self.sentences)], room)
            parts.append(sentence)
            room -= len(sentence) + 1
            at += 1
        return parts


def _within(sentence: str, chars: int) -> str:
    """The sentence, or as many of its words as there is room for, with a full stop."""
    if len(sentence) <= chars:
        return sentence
    cut = sentence[: chars - 1]
    words = cut[: cut.rfind(" ")] if " " in cut[-WORD_CHARS // 2 :] else cut
    return words.rstrip(" ,;:") + "."


def stretches(text: str) -> tuple[Filler, Filler]:
    """The first half of the text and the second, without the sentences that are in both.

    Raises InputError: there is too little of it.
    """
    plain = " ".join(LABEL.sub("", line) for line in text.splitlines())
    sentences = [each for each in SENTENCE_END.split(" ".join(plain.split())) if each]
    first = sentences[: len(sentences) // 2]
    seen = set(first)
    second = [each for each in sentences[len(sentences) // 2 :] if each not in seen]
    if min(sum(map(len, first)), sum(map(len, second))) < FEWEST_CHARS:
        raise InputError(
            f"the text is too short: each half must have {FEWEST_CHARS:,} characters of prose of "
            "its own; name a longer one (--text FILE)"
        )
    return Filler(first), Filler(second)
