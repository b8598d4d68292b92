"""Which parts of a prompt are spans of the context: found by the host, never told by the jail.

The context is cut into aligned blocks of ``block`` characters, each looked up by its text.
A match of at least 2 x block - 1 characters holds a whole aligned block wherever it begins,
so sliding over a prompt finds it, and it is then extended both ways to its full length.
"""

from collections.abc import Iterator
from typing import Any

from distill.supervisor.journal import texts_of
from distill.traces.records import Span

MIN_MATCH_CHARS = 40
PROMPT_LIMIT_CHARS = 500_000
"""What of a prompt is looked at: no worker's window holds more, and a flood must cost little."""
SMALLEST_BLOCK_CHARS = 20
BLOCKS_LIMIT = 1_000_000
"""Blocks indexed at most (some 150 MB); larger contexts get longer blocks and matches."""
SHORTEST_TEXT_CHARS = 8
SHORT_TEXTS_LIMIT = 1000
"""Texts that are shorter than a match, of a list or dict, that are looked for whole."""
PLACES_LIMIT = 8
"""Places of a repeated block that are tried for the longest match."""


class SpanIndex:
    """Finds spans of one context in any number of prompts."""

    def __init__(self, context: Any) -> None:
        self._texts = list(texts_of(context))
        total = sum(len(text) for _, text in self._texts)
        self._block = max(SMALLEST_BLOCK_CHARS, -(-total // BLOCKS_LIMIT))
        self._places: dict[str, list[tuple[int, int]]] = {}
        self._short: list[int] = []
        for number, (_, text) in enumerate(self._texts):
            if SHORTEST_TEXT_CHARS <= len(text.strip()) < MIN_MATCH_CHARS:
                self._short.append(number)
            for start in range(0, len(text) - self._block + 1, self._block):
                self._places.setdefault(text[start : start + self._block], []).append(
                    (number, start)
                )

    def spans(self, prompt: str) -> tuple[Span, ...]:
        """The longest matches in ``prompt``, left to right, none overlapping.

        A text of the context that is shorter than a match can be counts if it stands there whole.
        """
        spans = list(self._scan(prompt[:PROMPT_LIMIT_CHARS]))
        for span in self._whole(prompt):
            if not any(_overlap(span, other) for other in spans):
                spans.append(span)
        return tuple(sorted(spans, key=lambda span: span.prompt_start))

    def _whole(self, prompt: str) -> Iterator[Span]:
        for number in self._short[:SHORT_TEXTS_LIMIT]:
            part, text = self._texts[number]
            core = text.strip()
            if (place := prompt.find(core)) >= 0:
                start = text.index(core)
                yield Span(start, start + len(core), place, part)

    def _scan(self, prompt: str) -> Iterator[Span]:
        known, block = self._places, self._block
        position = floor = 0
        while True:
            # What is no passage costs a step a character: this expression is all of the step.
            starts = range(position, len(prompt) - block + 1)
            found = next((at for at in starts if prompt[at : at + block] in known), None)
            if found is None:
                return
            span = self._longest(prompt, found, floor, known[prompt[found : found + block]])
            if span is None:
                position = found + 1
            else:
                position = floor = span.prompt_start + span.end - span.start
                yield span

    def _longest(
        self, prompt: str, position: int, floor: int, places: list[tuple[int, int]]
    ) -> Span | None:
        best: Span | None = None
        for number, start in places[:PLACES_LIMIT]:
            part, text = self._texts[number]
            left = _common_suffix(text, start, prompt, position, position - floor)
            right = _common_prefix(text, start + self._block, prompt, position + self._block)
            begin, end = start - left, start + self._block + right
            if end - begin >= MIN_MATCH_CHARS and (
                best is None or end - begin > best.end - best.start
            ):
                best = Span(begin, end, position - left, part)
        return best


def _overlap(one: Span, other: Span) -> bool:
    """Whether two spans share characters of the prompt."""
    ends = [span.prompt_start + span.end - span.start for span in (one, other)]
    return one.prompt_start < ends[1] and other.prompt_start < ends[0]


def _common_prefix(text: str, start: int, prompt: str, position: int) -> int:
    """How many characters agree from here on; by doubling steps, so long spans are cheap."""
    count, step = 0, 64
    while step:
        piece = prompt[position + count : position + count + step]
        if len(piece) == step and text.startswith(piece, start + count):
            count += step
            step *= 2
        else:
            step //= 2
    return count


def _common_suffix(text: str, start: int, prompt: str, position: int, most: int) -> int:
    count = 0
    while (
        count < most
        and start - count > 0
        and text[start - count - 1] == prompt[position - count - 1]
    ):
        count += 1
    return count


def coverage(spans: dict[str | None, list[tuple[int, int]]]) -> int:
    """Characters that at least one of the spans covers, by part of the context."""
    total = 0
    for pairs in spans.values():
        reached = 0
        for start, end in sorted(pairs):
            total += max(0, end - max(start, reached))
            reached = max(reached, end)
    return total
