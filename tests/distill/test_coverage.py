"""What workers have read of a text: against searches that try everything, and where it is known."""

import itertools
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from distill.supervisor.provenance import SpanIndex
from distill.traces import coverage, repeats
from distill.traces.contexts import texts_of
from distill.traces.coverage import MIN_MATCH_CHARS, PartCoverage, union, without
from distill.traces.records import Span
from distill.traces.repeats import Passage, places

FIRST_CHAR = 0x1F300
"""Of texts in which each character stands once: beyond what UTF-16 holds in one unit."""
intervals = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=12)


def chars(pairs: Sequence[tuple[int, int]]) -> set[int]:
    return {at for start, end in pairs for at in range(start, end)}


@given(intervals, intervals)
def test_intervals_are_sets_of_characters(
    one: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    first, second = union(one), union(other)
    assert chars(first) == chars(one)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(first)), "as few as can be, in order"
    rest = without(first, second)
    assert chars(rest) == chars(first) - chars(second)
    assert sum(end - start for start, end in rest) == len(chars(rest))


small_texts = st.lists(st.text("ab", max_size=90), min_size=1, max_size=4)


@given(small_texts, st.data())
@settings(max_examples=150, deadline=None)
def test_every_place_of_a_passage_is_found(texts: list[str], data: st.DataObject) -> None:
    passages = []
    for _ in range(data.draw(st.integers(0, 5))):
        text = data.draw(st.integers(0, len(texts) - 1))
        if texts[text]:
            start = data.draw(st.integers(0, len(texts[text]) - 1))
            passages.append(
                Passage(text, start, data.draw(st.integers(start + 1, len(texts[text]))))
            )
    for passage, found in zip(passages, places(texts, passages), strict=True):
        wanted = texts[passage.text][passage.start : passage.end]
        assert found == [
            Passage(number, at, at + len(wanted))
            for number, text in enumerate(texts)
            for at in range(len(text))
            if text.startswith(wanted, at)
        ]


def test_places_are_found_beyond_the_first_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "WINDOW_CHARS", 64)
    line = "The same line stands at the end of every page.\n"
    text = "".join(f"Page {n} tells of the {n * 7919}th thing. {line}" for n in range(60))
    start = text.index(line)
    (found,) = places([text, line], [Passage(0, start, start + len(line))])
    assert found is not None
    assert len(found) == 61
    assert all((text, line)[each.text][each.start : each.end] == line for each in found)


def test_places_of_long_passages_count_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a text that repeats itself each place of a passage is compared to its end."""
    monkeypatch.setattr(repeats, "ALL_PLACES_LIMIT", 10_000)
    page = "".join(random.Random(1).choices("abcdefghijklmnop ", k=500))

    def crowded(chars: int) -> int:
        spans = [Span(at * 7, at * 7 + chars, 0) for at in range(100)]
        return coverage.of(page * 100, spans).crowded

    assert crowded(3_000) == 0
    assert 0 < crowded(30_000) < 100


def test_a_passage_of_too_many_places_is_said_to_be_one() -> None:
    text = "a" * 20_000
    found = coverage.of(text, [Span(5, 100, 0)])
    assert (found.crowded, found.read_chars) == (1, 0)
    assert found.parts[0].ambiguous == ((5, 100),)


class Book:
    """A text whose truth is known: each character stands once, but for passages that repeat.

    ``places[char]`` are all places of a character.
    """

    def __init__(self, pieces: Sequence[Sequence[int]]) -> None:
        """Each part by the sizes of its pieces; a negative one is the repeated passage -n."""
        fresh = itertools.count(FIRST_CHAR)
        again = {n: "".join(chr(next(fresh)) for _ in range(35 + 25 * n)) for n in (1, 2)}
        self.parts = [
            "".join(
                again[-size] if size < 0 else "".join(chr(next(fresh)) for _ in range(size))
                for size in sizes
            )
            for sizes in pieces
        ]
        self.places: dict[str, list[tuple[int, int]]] = {}
        for number, text in enumerate(self.parts):
            for at, char in enumerate(text):
                self.places.setdefault(char, []).append((number, at))

    def stands_once(self, char: str) -> bool:
        return len(self.places[char]) == 1

    def longest(self, prompt: str, begin: int) -> tuple[int, list[tuple[int, int]]]:
        """How far the prompt goes on as the book does from some place, and all such places."""
        sizes = {}
        for number, at in self.places.get(prompt[begin], ()):
            text, size = self.parts[number], 1
            while prompt[begin : begin + size + 1] == text[at : at + size + 1] and (
                begin + size < len(prompt) and at + size < len(text)
            ):
                size += 1
            sizes[number, at] = size
        most = max(sizes.values(), default=0)
        return most, [place for place, size in sizes.items() if size == most]

    def read(self, prompts: Sequence[str]) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
        """What was read for certain, and what may have been."""
        certain: set[tuple[int, int]] = set()
        maybe: set[tuple[int, int]] = set()
        for prompt in prompts:
            begin = 0
            while begin < len(prompt):
                size, found = self.longest(prompt, begin)
                if size >= MIN_MATCH_CHARS:
                    kind = certain if len(found) == 1 else maybe
                    kind.update((n, at + step) for n, at in found for step in range(size))
                    begin += size
                else:
                    begin += 1
        return certain, maybe - certain


sizes = st.sampled_from([-1, -2, 30, 70, 130])
books = st.lists(st.lists(sizes, min_size=1, max_size=6), min_size=1, max_size=3).map(Book)
SHAPES: dict[str, Callable[[list[str]], Any]] = {
    "text": lambda parts: parts[0],
    "list": lambda parts: parts,
    "dict": lambda parts: {f"file {n}.txt": text for n, text in enumerate(parts)},
    "nested": lambda parts: {"a": [parts[0], 7, None], "b": {"c": parts[1:]}},
}


def drawn_prompt(book: Book, data: st.DataObject) -> str:
    """Chunks that are truncated, overlap, are joined, out of order, or edited in one place."""
    chunks: list[str] = []
    for _ in range(data.draw(st.integers(1, 4))):
        text = data.draw(st.sampled_from(book.parts))
        start = data.draw(st.integers(0, len(text) - 1))
        chunk = text[start : data.draw(st.integers(start + 1, len(text)))]
        if data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(chunk) - 1))
            chunk = f"{chunk[:at]}~{chunk[at + 1 :]}"
        chunks.append(chunk)
    prompt = "Read: "
    for chunk in chunks:
        # Right beside a passage that stands twice another chunk could make up its other place.
        ends = (prompt[-1], chunk[0])
        if not all(char in book.places and book.stands_once(char) for char in ends):
            prompt += " | "
        prompt += chunk
    return f"{prompt}\nAnswer:"


@pytest.mark.parametrize("shape", SHAPES)
@given(book=books, data=st.data())
@settings(max_examples=60, deadline=None)
def test_where_the_truth_is_known_coverage_is_the_truth(
    shape: str, book: Book, data: st.DataObject
) -> None:
    if shape == "text":
        book = Book([(130, -1, 30, -2, 70, -1, 130, -2)])
    assume(all(len(text) >= MIN_MATCH_CHARS for text in book.parts))
    context = json.loads(json.dumps(SHAPES[shape](book.parts)))
    prompts = [drawn_prompt(book, data) for _ in range(data.draw(st.integers(1, 4)))]
    index = SpanIndex(context)
    found = coverage.of(context, [span for prompt in prompts for span in index.spans(prompt)])
    certain, maybe = book.read(prompts)
    assert [part.part for part in found.parts] == [part for part, _ in texts_of(context)]
    for number, part in enumerate(found.parts):
        assert chars(part.read) == {at for n, at in certain if n == number}
        assert chars(part.ambiguous) == {at for n, at in maybe if n == number}
    assert (found.read_chars, found.ambiguous_chars) == (len(certain), len(maybe))
    assert found.chars == sum(map(len, book.parts))


def test_where_the_last_prompt_had_its_passage_is_only_a_guess() -> None:
    """There, in the midst of a passage, a shorter match may be that is before it, too."""
    book = Book([(130, -1, 30, -2, 70, -1, 130, -2)])
    (text,) = book.parts
    later, sooner = f"{'?' * 70}{text[376:432]}", f"{'?' * 31}{text[345:416]}"
    index = SpanIndex(text)
    assert [span.prompt_start for span in index.spans(later)] == [70]
    assert [(span.start, span.end) for span in index.spans(sooner)] == [(345, 416)]


def test_an_edited_passage_counts_up_to_the_edit() -> None:
    book = Book([[300]])
    (text,) = book.parts
    edited = f"{text[:100]}~{text[101:130]}~{text[131:250]}"
    found = coverage.of(text, SpanIndex(text).spans(f"Is it so? {edited}"))
    assert found.parts == (PartCoverage(None, 300, ((0, 100), (131, 250))),)


def test_a_header_on_every_page_is_read_with_its_page_only() -> None:
    """However often it repeats: where the text goes on tells its places apart."""
    header = "THE ANNUAL REPORT OF THE COMPANY AND ITS SUBSIDIARIES, ALL FIGURES IN THOUSANDS\n\n"
    numbers = random.Random(7)
    pages = [f"{header}{n}: {numbers.randbytes(100).hex()}\n" for n in range(50)]
    text = "".join(pages)
    found = coverage.of(text, SpanIndex(text).spans(f"Sum up.\n{pages[31]}Sum:"))
    start = sum(map(len, pages[:31]))
    (part,) = found.parts
    # The header's first line may well be the next page's, too: nothing tells where it ends.
    assert part.read[0][0] <= start
    assert part.read[-1][1] >= start + len(pages[31])
    assert found.read_chars - len(pages[31]) < 10
    assert found.ambiguous_chars == 0


def test_many_short_texts_are_read_one_by_one() -> None:
    lines = [f"- Item {n}: {n * 37} pieces " for n in range(5000)]
    found = coverage.of(lines, SpanIndex(lines).spans("Which is most?\n" + "\n".join(lines[4000:])))
    assert found.read_chars == sum(len(line.strip()) for line in lines[4000:])
    assert found.ambiguous_chars == 0
    twice = coverage.of(["short text", "short text"], SpanIndex(["short text"]).spans("short text"))
    assert twice.ambiguous_chars == 20
    assert SpanIndex(["Chapter 1", "x"]).spans("Read Chapter 12.") == ()


@given(
    context=st.text("ab", max_size=30) | st.lists(st.text("ab", max_size=9), max_size=3),
    spans=st.lists(
        st.builds(
            Span,
            st.integers(-5, 40),
            st.integers(-5, 40),
            st.integers(-5, 40),
            st.none() | st.sampled_from(["0", "1", "9"]),
        ),
        max_size=6,
    ),
)
@settings(deadline=None)
def test_spans_that_lie_outside_count_nothing(context: Any, spans: list[Span]) -> None:
    found = coverage.of(context, spans)
    assert 0 <= found.read_chars + found.ambiguous_chars <= found.chars
    assert 0 <= found.share <= 1


def test_in_a_large_text_matches_are_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.supervisor.provenance.BLOCKS_LIMIT", 10)
    text = Book([[600]]).parts[0]
    found = coverage.of(text, SpanIndex(text).spans(f"Read: {text[5:200]} | {text[300:350]}"))
    assert found.parts[0].read == ((5, 200),), "blocks have 60 characters, and 50 hold none whole"
