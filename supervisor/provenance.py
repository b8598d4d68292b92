"""Which parts of a prompt are spans of the context: found by the host, never told by the jail.

The context is cut into aligned blocks of ``block`` characters, each looked up by its text.
A match of at least 2 x block - 1 characters holds a whole aligned block wherever it begins,
so sliding over a prompt finds it, and it is then extended both ways to its full length.
"""

import bisect
import itertools
import sys
from collections.abc import Iterator
from typing import Any

from distill.traces.contexts import texts_of
from distill.traces.coverage import MIN_MATCH_CHARS
from distill.traces.records import Span

PROMPT_LIMIT_CHARS = 500_000
"""What of a prompt is looked at: no worker's window holds more, and a flood must cost little."""
SMALLEST_BLOCK_CHARS = 20
BLOCKS_LIMIT = 1_000_000
"""Blocks indexed at most (some 150 MB); larger contexts get longer blocks and matches."""
SHORTEST_TEXT_CHARS = 8
SHORT_TEXTS_LIMIT = 1000
"""Texts that are shorter than a match, of a list or dict, that are looked for whole."""
BARREN_LIMIT_CHARS = 4096
"""Of what prompts have in common beside the passage, what is remembered."""
FIRST_STEP_CHARS = 16
AT_ONCE_CHARS = 32_768
"""Of a prompt, what is compared at once before it goes by steps: most passages end one."""
PLACES_LIMIT = 8
"""Places of a repeated block that are tried for the longest match."""


class SpanIndex:
    """Finds spans of one context in any number of prompts. Not thread-safe.

    Numbers of places instead of objects: what holds only strings and integers, Python's garbage
    collector never looks at, and lookups touch less memory.
    """

    def __init__(self, context: Any) -> None:
        self._texts = list(texts_of(context))
        self._ends = list(itertools.accumulate(len(text) for _, text in self._texts))
        total = self._ends[-1] if self._ends else 0
        self._block = max(SMALLEST_BLOCK_CHARS, -(-total // BLOCKS_LIMIT))
        self._first: dict[str, int] = {}
        """Where each block stands, counted through all texts."""
        self._others: dict[str, list[int]] = {}
        """Where else, in the order of the context."""
        self._short: list[int] = []
        self._barren_head = self._barren_tail = ""
        """How the last prompts began and ended alike: where no block of the context is."""
        self._guess = 0
        """Where the first span of the last prompt began."""
        for number, (_, text) in enumerate(self._texts):
            if SHORTEST_TEXT_CHARS <= len(text.strip()) < MIN_MATCH_CHARS:
                self._short.append(number)
            self._enter(text, self._ends[number] - len(text))

    def forget(self) -> None:
        """Let go of the text: from now on it finds nothing."""
        self._texts, self._ends, self._short = [], [], []
        self._first, self._others = {}, {}

    def _enter(self, text: str, base: int) -> None:
        block, first = self._block, self._first
        for start in range(0, len(text) - block + 1, block):
            piece = text[start : start + block]
            if piece in first:
                self._others.setdefault(piece, []).append(base + start)
            else:
                first[piece] = base + start

    def spans(self, prompt: str) -> tuple[Span, ...]:
        """The longest matches in ``prompt``, left to right, none overlapping.

        A text of the context that is shorter than a match can be counts if it stands there whole.
        """
        spans = self._scan(prompt[:PROMPT_LIMIT_CHARS])
        if self._short:
            for span in self._whole(prompt):
                if not any(_overlap(span, other) for other in spans):
                    spans.append(span)
            spans.sort(key=lambda span: span.prompt_start)
        return tuple(spans)

    def _whole(self, prompt: str) -> Iterator[Span]:
        for number in self._short[:SHORT_TEXTS_LIMIT]:
            part, text = self._texts[number]
            core = text.strip()
            if (place := prompt.find(core)) >= 0:
                start = text.index(core)
                yield Span(start, start + len(core), place, part)

    def _scan(self, prompt: str) -> list[Span]:
        end = len(prompt)
        if prompt.endswith(self._barren_tail):
            end -= len(self._barren_tail)
        guessed = self._guessed(prompt, end)
        spans = [] if guessed is None else [guessed]
        position = floor = 0 if guessed is None else _end(guessed)
        while position != end:
            found = self._next_block(prompt, position) if position else self._first_block(prompt)
            if found == len(prompt):
                self._barren_tail = prompt[position:][:BARREN_LIMIT_CHARS]
                break
            span = self._longest(prompt, found, floor, end)
            if span is None:
                position = found + 1
            else:
                spans.append(span)
                position = floor = _end(span)
        self._guess = spans[0].prompt_start if spans else 0
        return spans

    def _guessed(self, prompt: str, end: int) -> Span | None:
        """The first span, if it begins about where the last prompt's did and none is before it."""
        span, found = None, self._guess - 1
        while span is None and found < len(prompt):
            found = self._next_block(prompt, found + 1, self._guess + self._block)
            if found < len(prompt):
                span = self._longest(prompt, found, 0, end)
        if span is None or self._first_block(prompt, span.prompt_start) < len(prompt):
            return None
        return span

    def _first_block(self, prompt: str, end: int = sys.maxsize) -> int:
        """Where the first block begins that ends by ``end``, but for what is known of prompts that
        begin alike; the prompt's end if there is none.
        """
        head, block = self._barren_head, self._block
        known = max(0, len(head) - block + 1) if prompt.startswith(head) else 0
        found = self._next_block(prompt, known, end - block + 1)
        if not known:
            alike = common_prefix(prompt, 0, head, 0, len(head))
            barren = min(found + block - 1, end, BARREN_LIMIT_CHARS)
            self._barren_head = prompt[: alike if alike > block else barren]
        return found

    def _next_block(self, prompt: str, position: int, stop: int = sys.maxsize) -> int:
        """Where a block of the context begins next, from ``position`` to before ``stop``; the
        prompt's end if none does.

        What is no passage costs a step a character: the loop is all of the step.
        """
        first, block = self._first, self._block
        for at in range(position, min(stop, len(prompt) - block + 1)):
            if prompt[at : at + block] in first:
                return at
        return len(prompt)

    def _longest(self, prompt: str, position: int, floor: int, end: int) -> Span | None:
        """The longest match that the block of the context at ``position`` is part of; it begins
        at ``floor`` or later, and ``end`` is where it may well end.
        """
        block = self._block
        piece = prompt[position : position + block]
        best: Span | None = None
        longest = MIN_MATCH_CHARS - 1
        for place in (self._first[piece], *self._others.get(piece, ())[: PLACES_LIMIT - 1]):
            number = bisect.bisect_right(self._ends, place)
            part, text = self._texts[number]
            start = place - self._ends[number] + len(text)
            left = common_suffix(text, start, prompt, position, position - floor)
            right = common_prefix(text, start + block, prompt, position + block, end)
            if left + block + right > longest:
                longest = left + block + right
                best = Span(start - left, start + block + right, position - left, part)
        return best


def _end(span: Span) -> int:
    """Where it ends in the prompt."""
    return span.prompt_start + span.end - span.start


def _overlap(one: Span, other: Span) -> bool:
    """Whether two spans share characters of the prompt."""
    return one.prompt_start < _end(other) and other.prompt_start < _end(one)


def common_prefix(text: str, start: int, prompt: str, position: int, end: int) -> int:
    """How many characters agree from here on.

    What is left of the prompt up to ``end`` is tried at once; then it goes by doubling and by
    halving steps.
    """
    count, step = 0, FIRST_STEP_CHARS
    rest = prompt[position : min(end, position + AT_ONCE_CHARS)]
    if text.startswith(rest, start):
        count = len(rest)
    while piece := prompt[position + count : position + count + step]:
        if len(piece) < step or not text.startswith(piece, start + count):
            break
        count += step
        step *= 2
    while step := step // 2:
        piece = prompt[position + count : position + count + step]
        if len(piece) == step and text.startswith(piece, start + count):
            count += step
    return count


def common_suffix(text: str, start: int, prompt: str, position: int, most: int) -> int:
    """How many characters before these places agree, ``most`` at most."""
    count, step = 0, FIRST_STEP_CHARS
    while True:
        step = min(step, most - count, start - count)
        piece = prompt[position - count - step : position - count]
        if not step or not text.startswith(piece, start - count - step):
            break
        count += step
        step *= 2
    while step := step // 2:
        piece = prompt[position - count - step : position - count]
        if text.startswith(piece, start - count - step):
            count += step
    return count
