"""What stands behind an answer: found by the host in what passed through it.

A worker agrees when its answer holds the final one; its quotation is from the passage that it
had read. It is a match, not a cause: the code may have found the answer otherwise.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.supervisor.readings import Reading
from distill.traces.contexts import texts_of
from distill.traces.coverage import read_chars
from distill.traces.records import Span

QUOTATIONS = 3
QUOTATION_CHARS = 240
WORD_CHARS = 30
"""A longer word may be cut: there are scripts without spaces."""
OTHERS_SHOWN = 4
SHORT_ANSWER_WORDS = 8
LONG_ANSWER_WORDS = 12
"""A longer answer is a summary: no worker says it word for word."""


@dataclass(frozen=True, slots=True)
class Quotation:
    """Characters ``start:end`` of the context (of ``part``, in a list or dict).

    ``file`` is the one that they were read from, where that is known.
    """

    text: str
    start: int
    end: int
    part: str | None = None
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """How many of the ``answers`` of workers hold the final one, and what the others said.

    ``others`` are ``(answer, count)``, most first. ``read_chars`` of ``total_chars`` were
    read, in ``passages`` distinct passages.
    """

    answers: int
    agreeing: int
    others: tuple[tuple[str, int], ...]
    quotations: tuple[Quotation, ...]
    passages: int
    read_chars: int
    total_chars: int


def gather(
    answer: Any, context: Any, readings: Sequence[Reading], spans: Sequence[Span]
) -> Evidence:
    """The evidence for ``answer`` among what the workers read and said."""
    texts = dict(texts_of(context))
    wanted = normalise(str(answer)) if answer is not None else ""
    said = Counter(normalise(reading.response) for reading in readings)
    agreeing = {words for words in said if wanted and _holds(words, wanted)}
    others = [
        (words, count)
        for words, count in said.most_common()
        if words and words not in agreeing and words.count(" ") < SHORT_ANSWER_WORDS
    ]
    return Evidence(
        answers=len(readings),
        agreeing=sum(said[words] for words in agreeing),
        others=tuple(others[:OTHERS_SHOWN]),
        quotations=tuple(_quotations(answer, texts, readings)),
        passages=len({(r.span.part, r.span.start, r.span.end) for r in readings}),
        read_chars=read_chars(spans),
        total_chars=sum(len(text) for text in texts.values()),
    )


def _holds(words: str, wanted: str) -> bool:
    """Whether the wanted words stand whole in these."""
    return f" {wanted} " in f" {words} "


def normalise(text: str) -> str:
    """Lower-case words without punctuation and leading article, as votes are counted."""
    words = re.findall(r"\w+", text.lower())
    if words and words[0] in ("the", "a", "an"):
        words = words[1:]
    return " ".join(words)


def _quotations(
    answer: Any, texts: dict[str | None, str], readings: Sequence[Reading]
) -> list[Quotation]:
    """Sentences that hold the answer, from passages whose worker gave it."""
    wanted = normalise(str(answer)) if answer is not None else ""
    if not wanted or wanted.count(" ") >= LONG_ANSWER_WORDS:
        return []
    pattern = re.compile(r"\W+".join(map(re.escape, wanted.split())), re.IGNORECASE)
    found: list[Quotation] = []
    for reading in readings:
        if not _holds(normalise(reading.response), wanted):
            continue
        span = reading.span
        text = texts[span.part]
        if match := pattern.search(text[span.start : span.end]):
            start, end = (span.start + at for at in match.span())
            quotation = _around(text, start, end, span)
            if quotation not in found:
                found.append(quotation)
        if len(found) == QUOTATIONS:
            break
    return found


def _around(text: str, start: int, end: int, span: Span) -> Quotation:
    """The sentence or line around a match in a passage, in whole words, QUOTATION_CHARS at most."""
    left = max(text.rfind(mark, span.start, start) for mark in ("\n", ". ", "? ", "! "))
    begin = max(left + 1, span.start, start - QUOTATION_CHARS // 2)
    marks = (text.find(mark, end, span.end) for mark in ("\n", ". ", "? ", "! "))
    finish = min([*(at for at in marks if at >= 0), begin + QUOTATION_CHARS, span.end])
    finish = max(finish, end)
    later = range(begin, min(start, begin + WORD_CHARS) + 1)
    begin = next((at for at in later if not _is_in_word(text, at)), begin)
    earlier = range(finish, max(end, finish - WORD_CHARS) - 1, -1)
    finish = next((at for at in earlier if not _is_in_word(text, at)), finish)
    begin += len(text[begin:finish]) - len(text[begin:finish].lstrip())
    quoted = text[begin:finish].strip()
    return Quotation(quoted, begin, begin + len(quoted), span.part)


def _is_in_word(text: str, at: int) -> bool:
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()
