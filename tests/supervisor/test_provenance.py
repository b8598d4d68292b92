"""Spans of the context in prompts, against a search that tries everything."""

import cProfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.supervisor.provenance import SpanIndex
from distill.traces.contexts import texts_of
from distill.traces.coverage import MIN_MATCH_CHARS
from distill.traces.records import Span

letters = st.text("abcdefgh ", min_size=0, max_size=60)
long_texts = st.lists(letters, min_size=1, max_size=12).map("".join)


def occurrences(texts: dict[str | None, str], wanted: str) -> int:
    """How often a text stands in the context, overlaps counted."""
    return sum(text.startswith(wanted, at) for text in texts.values() for at in range(len(text)))


def check(context: Any, prompt: str, index: SpanIndex | None = None) -> tuple[Span, ...]:
    """All that must hold of the spans of any prompt, whichever the index has seen before."""
    texts = dict(texts_of(context))
    spans = (index or SpanIndex(context)).spans(prompt)
    position = 0
    for span in spans:
        size = span.end - span.start
        before = 0  # of the match, what an earlier span has
        while (
            before < min(span.start, span.prompt_start)
            and texts[span.part][span.start - before - 1] == prompt[span.prompt_start - before - 1]
        ):
            before += 1
        assert before + size >= min(MIN_MATCH_CHARS, len(texts[span.part].strip()))
        assert 0 <= span.start <= span.end <= len(texts[span.part])
        assert span.prompt_start >= position, "they must not overlap"
        position = span.prompt_start + size
        assert prompt[span.prompt_start : position] == texts[span.part][span.start : span.end]
    gaps, begin = [], 0
    for span in spans:
        gaps.append(prompt[begin : span.prompt_start])
        begin = span.prompt_start + span.end - span.start
    for gap in [*gaps, prompt[begin:]]:
        for at in range(len(gap) - MIN_MATCH_CHARS + 1):
            window = gap[at : at + MIN_MATCH_CHARS]
            assert not occurrences(texts, window), f"missed {window!r}"
    return spans


@given(long_texts, st.data())
@settings(max_examples=150, deadline=None)
def test_pieces_of_a_text_are_found_wherever_they_begin(text: str, data: st.DataObject) -> None:
    pieces = []
    for _ in range(data.draw(st.integers(0, 4))):
        start = data.draw(st.integers(0, len(text)))
        pieces += [data.draw(letters), text[start : data.draw(st.integers(start, len(text)))]]
    check(text, "".join(pieces))


@given(st.lists(long_texts, min_size=1, max_size=4), st.data())
@settings(max_examples=80, deadline=None)
def test_in_a_list_and_a_dict_the_part_is_named(texts: list[str], data: st.DataObject) -> None:
    one = data.draw(st.sampled_from(texts))
    prompt = f"Read: {one}\nAnswer:"
    check(texts, prompt)
    check({f"file {number}": text for number, text in enumerate(texts)}, prompt)


@given(st.text(max_size=200), st.text(max_size=200))
@settings(deadline=None)
def test_any_unicode_is_fine(text: str, prompt: str) -> None:
    check(text, prompt + text + prompt)


@given(long_texts, st.lists(letters, min_size=1, max_size=3), st.data())
@settings(max_examples=150, deadline=None)
def test_what_other_prompts_held_changes_nothing(
    text: str, instructions: list[str], data: st.DataObject
) -> None:
    index = SpanIndex(text)
    for _ in range(data.draw(st.integers(2, 6))):
        head, tail = (data.draw(st.sampled_from(instructions)) for _ in range(2))
        start = data.draw(st.integers(0, len(text)))
        passage = text[start : data.draw(st.integers(start, len(text)))]
        check(text, f"{head}{passage}{tail}{data.draw(letters)}", index)


TEXT = "".join(f"Sentence number {n} tells of the {n * 7919}th thing. " for n in range(400))


@pytest.mark.parametrize("start", [0, 1, 19, 20, 21, 333, 5000])
def test_a_whole_passage_is_one_span(start: int) -> None:
    passage = TEXT[start : start + 600]
    (span,) = SpanIndex(TEXT).spans(f"Passage: {passage}\nQuestion: who?")
    # Neighbouring characters that happen to agree belong to the match as well.
    assert span.start <= start
    assert span.end >= start + 600


def test_a_passage_that_stands_twice_is_attributed_to_one_of_its_places() -> None:
    passage = "And it came to pass in those days, that there went out a decree from Caesar."
    context = f"xxx{passage}{'y' * 50}{passage}zz"
    (span,) = check(context, f"Read this: {passage}!")
    assert context[span.start : span.end] == passage


def test_a_prompt_without_the_context_has_no_span() -> None:
    assert SpanIndex(TEXT).spans("What is the capital of France? Answer in one word, please.") == ()


def test_a_long_prompt_and_a_long_context_are_quick() -> None:
    context = TEXT * 100
    index = SpanIndex(context)
    spans = index.spans(context[:300_000])
    assert sum(span.end - span.start for span in spans) == 300_000
    assert SpanIndex("a" * 200_000).spans("a" * 100_000)


def test_a_flood_of_nearly_matches_takes_no_longer_than_its_characters() -> None:
    """Each place of ``a * 39`` has more ways to lay it than are tried, and all fail by one."""
    index = SpanIndex("a" * 100_000 + TEXT)
    flood = ("a" * 39 + "b") * 500
    passage = TEXT[1000:1600]
    for _ in range(4):
        prompt = flood + passage
        profile = cProfile.Profile()
        (span,) = profile.runcall(index.spans, prompt)
        assert prompt[span.prompt_start :].startswith(passage)
        assert sum(each.callcount for each in profile.getstats()) < 15 * len(prompt)
