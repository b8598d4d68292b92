"""Which parts of a text workers have read: a union over the spans of their prompts.

The spans are in the log. The driver found each by comparing characters, and named one place of it
(``distill.supervisor.provenance``); here every other place of the same characters is found.

::

    a span that stands once in the context             → read
    a span that stands in several places of it         → ambiguous, in all of them
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from distill.traces.contexts import texts_of
from distill.traces.records import Span
from distill.traces.repeats import Passage, places

MIN_MATCH_CHARS = 40
METHOD = (
    f"longest matches of at least {MIN_MATCH_CHARS} characters between prompts and the text, "
    "character by character; what stands in several places of the text counts as ambiguous in all"
)
Interval = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PartCoverage:
    """One text of the context: ``part`` is its index or key in a list or dict, None if it is all.

    Intervals are characters ``start:end``, sorted, none overlapping. Of ``ambiguous`` a worker has
    read the same characters, here or in another place; they are not among ``read``.
    """

    part: str | None
    chars: int
    read: tuple[Interval, ...] = ()
    ambiguous: tuple[Interval, ...] = ()


@dataclass(frozen=True, slots=True)
class Coverage:
    """What workers have read of a context, text by text; how it was found: ``METHOD``.

    ``crowded`` passages stand in more places than were looked at: they are marked as ambiguous in
    one place each.
    """

    parts: tuple[PartCoverage, ...]
    crowded: int = 0

    @property
    def chars(self) -> int:
        """Of all texts."""
        return sum(part.chars for part in self.parts)

    @property
    def read_chars(self) -> int:
        """That a worker has read for certain."""
        return sum(_size(part.read) for part in self.parts)

    @property
    def ambiguous_chars(self) -> int:
        """More that may have been read: the same stands elsewhere, too."""
        return sum(_size(part.ambiguous) for part in self.parts)

    @property
    def share(self) -> float:
        """Of the text that was read for certain, 0 to 1; 0 of an empty one."""
        return self.read_chars / self.chars if self.chars else 0.0


def of(context: Any, spans: Iterable[Span]) -> Coverage:
    """What the spans cover of a str, list or dict. Spans that lie outside of it count nothing."""
    named = list(texts_of(context))
    numbers = {part: number for number, (part, _) in enumerate(named)}
    texts = [text for _, text in named]
    passages = list(_passages(texts, numbers, spans))
    read: list[list[Interval]] = [[] for _ in named]
    ambiguous: list[list[Interval]] = [[] for _ in named]
    crowded = 0
    marked: set[int] = set()
    everywhere = places(texts, passages)
    for passage, found in zip(passages, everywhere, strict=True):
        if found is None:
            crowded += 1
            ambiguous[passage.text].append((passage.start, passage.end))
            continue
        if id(found) in marked:
            continue
        marked.add(id(found))
        kind = read if len(found) == 1 else ambiguous
        for place in found:
            kind[place.text].append((place.start, place.end))
    parts = []
    for number, (part, text) in enumerate(named):
        certain = union(read[number])
        maybe = without(union(ambiguous[number]), certain)
        parts.append(PartCoverage(part, len(text), tuple(certain), tuple(maybe)))
    return Coverage(tuple(parts), crowded)


def _passages(
    texts: Sequence[str], numbers: dict[str | None, int], spans: Iterable[Span]
) -> Iterable[Passage]:
    """Each place that a span names, once."""
    seen = set()
    for span in spans:
        number = numbers.get(span.part)
        if number is None or not 0 <= span.start < span.end <= len(texts[number]):
            continue
        passage = Passage(number, span.start, span.end)
        if passage not in seen:
            seen.add(passage)
            yield passage


def read_chars(spans: Iterable[Span]) -> int:
    """Characters of the context in at least one of the spans, each span in the place it names."""
    by_part: dict[str | None, list[Interval]] = {}
    for span in spans:
        by_part.setdefault(span.part, []).append((span.start, span.end))
    return sum(_size(union(intervals)) for intervals in by_part.values())


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same characters in as few intervals as can be, sorted."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def without(intervals: Sequence[Interval], others: Sequence[Interval]) -> list[Interval]:
    """What of the intervals is in none of the others; each must be sorted and not overlap."""
    rest = []
    number = 0
    for start, end in intervals:
        begin = start
        while number < len(others) and others[number][1] <= begin:
            number += 1
        at = number
        while at < len(others) and others[at][0] < end:
            if begin < others[at][0]:
                rest.append((begin, others[at][0]))
            begin = max(begin, others[at][1])
            at += 1
        if begin < end:
            rest.append((begin, end))
    return rest


def _size(intervals: Iterable[Interval]) -> int:
    return sum(end - start for start, end in intervals)
