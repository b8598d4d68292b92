"""Which parts of a prompt are spans of the context: found by the host, never told by the jail.

The context is cut into aligned blocks of ``block`` characters, each looked up by its text.
A match of at least 2 x block - 1 characters holds a whole aligned block wherever it begins,
so sliding over a prompt finds it, and it is then extended both ways to its full length. Every place
of the context where the prompt goes on alike has such a block within the next ``block`` characters:
the longest of these matches counts.

A span names one place. Where else the same characters stand is found when the log is read
(``distill.traces.coverage``).
"""

import bisect
import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from distill.supervisor.short_texts import SHORTEST_TEXT_CHARS, ShortTexts
from distill.traces.contexts import texts_of
from distill.traces.coverage import MIN_MATCH_CHARS
from distill.traces.records import Span
from distill.traces.repeats import repeated_blocks

PROMPT_LIMIT_CHARS = 500_000
"""What of a prompt is looked at: no worker's window holds more, and a flood must cost little."""
SMALLEST_BLOCK_CHARS = 20
BLOCKS_LIMIT = 1_000_000
"""Blocks indexed at most (some 150 MB); larger contexts get longer blocks and matches."""
BARREN_LIMIT_CHARS = 4096
"""Of what prompts have in common beside the passage, what is remembered."""
FIRST_STEP_CHARS = 16
AT_ONCE_CHARS = 32_768
"""Of a prompt, what is compared at once before it goes by steps: most passages end one."""
PLACES_LIMIT = 8
"""Places that are tried for the longest match where the text repeats itself."""
FEW_PLACES = 2
AHEAD_LIMIT_CHARS = 5000
"""Where there are more, blocks of so few places are looked for, so far on at most."""
TRIES_LIMIT = 10_000
"""Comparisons of places that a run saves up at most: under 0.1 s of the driver's loop."""
CHARS_PER_TRY = 20
"""Of a prompt, what adds one: time grows with prompts, whatever they and the context hold."""
STEPS_PER_TRY = 100
"""Characters looked through, which take as long as a comparison."""


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
        self._short = ShortTexts()
        self._barren_head = self._barren_tail = ""
        """How the last prompts began and ended alike: where no block of the context is."""
        self._guess = 0
        """Where the first span of the last prompt began."""
        self._tries = TRIES_LIMIT
        """Comparisons left. Without any only the first place is tried, and less is found."""
        for number, (_, text) in enumerate(self._texts):
            if SHORTEST_TEXT_CHARS <= len(text.strip()) < MIN_MATCH_CHARS:
                self._short.enter(number, text)
            self._enter(text, self._ends[number] - len(text))
        self._again = set(self._others)
        """Blocks that stand elsewhere, too, aligned or not; of larger contexts only aligned ones,
        since a search for the rest would take a minute for 1 GB.
        """
        if self._block == SMALLEST_BLOCK_CHARS:
            self._again |= repeated_blocks([text for _, text in self._texts], self._block)

    def forget(self) -> None:
        """Let go of the text: from now on it finds nothing."""
        self._texts, self._ends, self._short = [], [], ShortTexts()
        self._first, self._others, self._again = {}, {}, set()

    def _enter(self, text: str, base: int) -> None:
        block, first = self._block, self._first
        for start in range(0, len(text) - block + 1, block):
            piece = text[start : start + block]
            if piece in first:
                self._others.setdefault(piece, []).append(base + start)
            else:
                first[piece] = base + start

    def spans(self, prompt: str) -> tuple[Span, ...]:
        """The longest matches in ``prompt``, left to right, none overlapping: what of a match an
        earlier one has is left out of its span.

        A text of the context that is shorter than a match can be counts if it stands there whole.
        """
        prompt = prompt[:PROMPT_LIMIT_CHARS]
        self._tries = min(TRIES_LIMIT, max(0, self._tries) + len(prompt) // CHARS_PER_TRY)
        spans = self._scan(prompt)
        if self._short:
            gaps = [0, *map(_end, spans)], [*(each.prompt_start for each in spans), len(prompt)]
            for begin, end in zip(*gaps, strict=True):
                spans += self._whole(prompt, begin, end)
            spans.sort(key=lambda span: span.prompt_start)
        return tuple(spans)

    def _whole(self, prompt: str, begin: int, end: int) -> Iterator[Span]:
        for place, number, core in self._short.found(prompt, begin, end):
            part, text = self._texts[number]
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
                position = found + (1 if self._tries > 0 else self._block)
            else:
                spans.append(span)
                position = floor = _end(span)
        self._guess = spans[0].prompt_start if spans else 0
        return spans

    def _guessed(self, prompt: str, end: int) -> Span | None:
        """The first span, if it begins about where the last prompt's did and none is before it.

        Where it begins before the guess, that is the better one: blocks between the two may be of a
        longer match.
        """
        guess = self._guess
        span = self._near(prompt, guess, end)
        while span is not None and (start := span.prompt_start) < guess:
            if self._next_block(prompt, start, guess) < len(prompt):
                span = self._near(prompt, start, end)
            guess = start
        if span is None or self._first_block(prompt, guess + self._block - 1) < len(prompt):
            return None
        return span

    def _near(self, prompt: str, guess: int, end: int) -> Span | None:
        """The match of the first block that has one, of those that begin soon from ``guess`` on."""
        span, found = None, guess - 1
        while span is None and found < len(prompt):
            found = self._next_block(prompt, found + 1, guess + self._block)
            if found < len(prompt):
                span = self._longest(prompt, found, 0, end)
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
        """The longest match that goes through the block of the context at ``position``; of it, what
        is at ``floor`` or later. ``end`` is where it may well end.
        """
        block = self._block
        best: Span | None = None
        longest = MIN_MATCH_CHARS - 1
        for at, place in self._alike(prompt, position):
            self._tries -= 1
            number = bisect.bisect_right(self._ends, place)
            part, text = self._texts[number]
            start = place - self._ends[number] + len(text)
            left = common_suffix(text, start, prompt, at, at)
            right = common_prefix(text, start + block, prompt, at + block, end)
            if left + block + right > longest and at - left <= position:
                longest = left + block + right
                kept = min(left, at - floor)
                best = Span(start - kept, start + block + right, at - kept, part)
        return best

    def _alike(self, prompt: str, position: int) -> Iterable[tuple[int, int]]:
        """Places of the prompt and of the context that hold the same block, one for each way to lay
        the two side by side: of blocks that begin in the first one.
        """
        piece = prompt[position : position + self._block]
        if self._tries <= 0 or piece not in self._again:
            return ((position, self._first[piece]),)
        return self._ways(prompt, position, min(position + self._block, len(prompt)))

    def _ways(self, prompt: str, position: int, stop: int) -> Iterator[tuple[int, int]]:
        """Where there are more than are tried, blocks further on may tell them apart."""
        ways: set[int] = set()
        at = position
        while at < stop:
            for place in self._places(prompt, at):
                if place - at not in ways:
                    if len(ways) == PLACES_LIMIT:
                        yield from self._further(prompt, position)
                        return
                    ways.add(place - at)
                    yield at, place
            at = self._next_block(prompt, at + 1, stop)

    def _further(self, prompt: str, position: int) -> Iterator[tuple[int, int]]:
        """Blocks further and further on that stand in few places."""
        ahead = self._block
        while ahead <= AHEAD_LIMIT_CHARS:
            at = self._next_block(prompt, position + ahead, position + 2 * ahead)
            self._tries -= ahead // STEPS_PER_TRY
            if at < len(prompt) and len(places := self._places(prompt, at)) <= FEW_PLACES:
                yield from ((at, place) for place in places)
            ahead *= 2

    def _places(self, prompt: str, at: int) -> list[int]:
        """Where the block of the context that begins here stands."""
        piece = prompt[at : at + self._block]
        return [self._first[piece], *self._others.get(piece, ())[:PLACES_LIMIT]]


def _end(span: Span) -> int:
    """Where it ends in the prompt."""
    return span.prompt_start + span.end - span.start


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
    beyond = count + step
    while beyond - count > 1:
        middle = (count + beyond) // 2
        if text.startswith(prompt[position - middle : position - count], start - middle):
            count = middle
        else:
            beyond = middle
    return count
