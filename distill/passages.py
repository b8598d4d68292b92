"""A context in passages: pieces of some hundred characters, cut where a text has a seam."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distill.traces.contexts import texts_of

PASSAGE_CHARS = 1000
"""The most that a passage has; it is cut at the last seam in its second half."""
SEAMS = ("\n\n", "\n", ". ", " ")
"""Where a text is cut, the best first; after it."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Characters ``start`` to ``end`` of one text of the context, by the text's place in it."""

    text: int
    start: int
    end: int


class Passages:
    """The texts of a context and their passages, in order; every character is in one of them."""

    def __init__(self, context: Any) -> None:
        found = list(texts_of(context))
        self.texts = [text for _, text in found]
        is_list = isinstance(context, list)
        self.parts = [_part(part, is_list=is_list) for part, _ in found]
        """Index or key of each text, None of a plain one, ``a/b`` of one further in."""
        self.cuts = [
            Passage(number, *cut) for number, text in enumerate(self.texts) for cut in _cuts(text)
        ]

    def read(self, passage: Passage) -> str:
        """What stands there."""
        return self.texts[passage.text][passage.start : passage.end]

    def found(self, passage: Passage, score: float) -> dict[str, Any]:
        """A passage as cells get it: ``context[part][start:end]`` is its text."""
        return {
            "text": self.read(passage),
            "part": self.parts[passage.text],
            "start": passage.start,
            "end": passage.end,
            "score": round(score, 4),
        }


def _part(part: str | None, *, is_list: bool) -> str | int | None:
    return int(part) if is_list and part is not None and part.isdecimal() else part


def _cuts(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(text):
        end = _end(text, start)
        yield start, end
        start = end


def _end(text: str, start: int) -> int:
    """Where the passage that begins here ends."""
    most = start + PASSAGE_CHARS
    if most >= len(text):
        return len(text)
    for seam in SEAMS:
        place = text.rfind(seam, start + PASSAGE_CHARS // 2, most)
        if place >= 0:
            return place + len(seam)
    return most
