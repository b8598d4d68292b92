"""Quotations in an answer, and where they stand in the text that was asked about.

A passage is quoted by “…” or "…". White space of any kind and length counts as one space,
typographic quotation marks and apostrophes as plain ones; an ellipsis or a mark of punctuation at
the very end of a quotation may be the answer's own. All else is as the text has it.
"""

import math
import re
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from distill.supervisor.evidence import Quotation
from distill.traces.contexts import texts_of

SINGLE = "\u2018\u2019\u201a\u201b\u2032"
DOUBLE = "\u201c\u201d\u201e\u201f\u2033\xab\xbb"
PLAIN = str.maketrans(SINGLE + DOUBLE, "'" * len(SINGLE) + '"' * len(DOUBLE))
QUOTED = re.compile(r'“([^“”]+)”|(?<!\w)"([^"]+)"(?!\w)')
"""A straight mark after a letter or digit opens nothing: 5" is five inches."""
OWN_MARKS = ".,;:!?"
WINDOW_CHARS = 1 << 18
"""Looked at in one go: what is held while it is, and how long Python's other threads may wait."""
OVERLAP_CHARS = 1 << 16
"""White space within a quotation may be that long."""


def quoted_in(answer: Any) -> list[str]:
    """The passages between quotation marks in all texts of a JSON-like answer, in order."""
    return [match[1] or match[2] for text in _strings(answer) for match in QUOTED.finditer(text)]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def is_empty(quotation: str) -> bool:
    """Whether there is nothing in it that could stand anywhere."""
    return not _forms(quotation)


def locate(
    quotations: Iterable[str], context: Any, limit_s: float = math.inf
) -> dict[str, Quotation]:
    """Where each first stands in a str, list or dict; those that stand nowhere are left out.

    Raises TimeoutError where they can't all be looked for in ``limit_s``.
    """
    ends_s = time.monotonic() + limit_s
    wanted = {quotation: _Wanted(_forms(quotation)) for quotation in quotations}
    for part, text in texts_of(context):
        for start, window in _windows(text, list(wanted.values())):
            for each in wanted.values():
                if time.monotonic() > ends_s:
                    raise TimeoutError
                each.look(part, start, window)
    return {quotation: each.found for quotation, each in wanted.items() if each.found is not None}


def file_of(quotation: Quotation, sources: Sequence[str]) -> str | None:
    """The file that it stands in, where the context was read from these files or one folder."""
    if not sources or sources == ("-",):
        return None
    if quotation.part is None:
        return sources[0]
    if len(sources) == 1:
        return str(Path(sources[0]) / quotation.part)
    return quotation.part


def _plain(text: str) -> str:
    return " ".join(text.translate(PLAIN).split())


def _forms(quotation: str) -> tuple[str, ...]:
    """What to look for: all of it, else without the marks that may be the answer's own."""
    whole = _plain(quotation)
    bare = whole.strip("… ").removeprefix("...").removesuffix("...").strip()
    bare = bare.rstrip(OWN_MARKS).rstrip()
    return tuple(form for form in dict.fromkeys((whole, bare)) if form.strip(OWN_MARKS + "… "))


class _Window:
    """A stretch of a text with its white space evened out; its places can be told back."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.plain = _plain(text)
        self._words: list[tuple[int, int]] = []
        self._begins: list[int] = []

    def place(self, begin: int, length: int) -> tuple[int, int]:
        """Where characters of ``plain`` are in the text."""
        if not self._words:
            self._words = [match.span() for match in re.finditer(r"\S+", self._text)]
            lengths = (end - start + 1 for start, end in self._words)
            self._begins = list(accumulate(lengths, initial=0))
        return self._at(begin), self._at(begin + length - 1) + 1

    def _at(self, position: int) -> int:
        word = bisect_right(self._begins, position) - 1
        return self._words[word][0] + position - self._begins[word]

    def text(self, start: int, end: int) -> str:
        return self._text[start:end]


@dataclass(slots=True)
class _Wanted:
    """One quotation that is looked for: the first of its forms that stands somewhere counts."""

    forms: tuple[str, ...]
    """Those that would still be better than what was found."""
    found: Quotation | None = None

    def look(self, part: str | None, start: int, window: _Window) -> None:
        for number, form in enumerate(self.forms):
            begin = window.plain.find(form)
            if begin >= 0:
                first, last = window.place(begin, len(form))
                text = window.text(first, last)
                self.found = Quotation(text, start + first, start + last, part)
                self.forms = self.forms[:number]
                return


def _windows(text: str, wanted: Sequence[_Wanted]) -> Iterator[tuple[int, _Window]]:
    """The text in stretches that overlap, while there is anything left to look for."""
    longest = max((len(form) for each in wanted for form in each.forms), default=0)
    overlap = max(OVERLAP_CHARS, 2 * longest)
    stride = max(WINDOW_CHARS, overlap)
    for start in range(0, max(len(text), 1), stride):
        if not any(each.forms for each in wanted):
            return
        yield start, _Window(text[start : start + stride + overlap])
