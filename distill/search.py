"""``search``: passages of the context by words (BM25) or by a regular expression.

It runs in the driver with what hostile code asks for. RE2 takes time in proportion to the text,
whatever the pattern, and lets go of the GIL meanwhile; a clock is looked at between pieces of the
text. One search at a time: others of the run wait in their threads.
"""

import bisect
import functools
import heapq
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

from distill.caller import is_gone
from distill.passages import PASSAGE_CHARS, Passage, Passages
from distill.primitives import primitive
from distill.supervisor.text import printable

QUERY_LIMIT_CHARS = 2000
HITS_LIMIT = 100
TEXT_LIMIT_CHARS = 100_000_000
"""Longer contexts are not searched: to index one takes some 6 bytes a character."""
PATTERN_LIMIT_BYTES = 1 << 20
"""Of a compiled pattern, in RE2: some 1,000 characters, or a counted repetition of classes."""
WINDOW_BYTES = 1 << 18
"""Of a text, what is searched between two looks at the clock."""
MATCH_LIMIT_BYTES = 1 << 16
"""A longer match may be cut or missed: it lies across windows."""
REGEX_LIMIT_S = 10.0
UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = rf"[{UNSPACED}]|[^\W{UNSPACED}]+"
"""What is looked up: a word; in kana and Han, which are written without spaces, a character."""
EMPTY: Any = object()
"""The index of a text that has no words."""


def make(rollout: Any) -> Callable[..., Any]:
    """``search`` over a run's context; runs about one text share its index."""
    return _search(lambda: rollout.text.made(Index))


def search_over(context: Any) -> Callable[..., list[dict[str, Any]]]:
    """``search`` over a str, list or dict. The text is cut and indexed when it is first called."""
    return _search(functools.cache(lambda: Index(context)))


def _search(index: "Callable[[], Index]") -> Callable[..., list[dict[str, Any]]]:
    """``search`` with what ``index`` gives at each call, one call at a time."""
    lock = threading.Lock()

    @primitive(egress=False)
    def search(
        query: str, kind: Literal["bm25", "regex"] = "bm25", k: int = 10
    ) -> list[dict[str, Any]]:
        """The k best passages (k up to 100) for words, or by matches of a regex (RE2 syntax: no \
        look-around; (?i) for any case): dicts of text, part, start, end, score, best first; \
        `context[start:end]`, or `context[part][start:end]` of a list or dict, is the text.

        Of a cell's arguments nothing is trusted: raises ValueError, TypeError, and TimeoutError
        for a pattern that takes more than REGEX_LIMIT_S. Sends nothing out.
        """
        check_query(query, k)
        if kind not in ("bm25", "regex"):
            raise ValueError(f"kind is 'bm25' or 'regex', not {str(kind)[:100]!r}")
        with lock:
            found = index()
            return found.regex(query, k) if kind == "regex" else found.bm25(query, k)

    return search


def check_query(query: Any, k: Any) -> None:
    """What a cell asks for. Raises ValueError, TypeError."""
    if not isinstance(query, str) or not query.strip():
        raise TypeError("the query is a str, and not an empty one")
    if len(query) > QUERY_LIMIT_CHARS:
        raise ValueError(f"the query has {len(query):,} characters; at most {QUERY_LIMIT_CHARS:,}")
    if printable(query) != query:
        raise ValueError("the query has a lone surrogate")
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= HITS_LIMIT:
        raise ValueError(f"k is a number from 1 to {HITS_LIMIT}")


class Index:
    """The passages of one context and what finds them. Any number of threads may ask."""

    def __init__(self, context: Any) -> None:
        self.passages = Passages(context)
        total = sum(map(len, self.passages.texts))
        if total > TEXT_LIMIT_CHARS:
            raise ValueError(
                f"the context has {total:,} characters, search takes {TEXT_LIMIT_CHARS:,}: "
                "look with code, for example with re over parts of it"
            )
        self._words: Any = None
        self._lock = threading.Lock()
        """Held while the words are indexed."""

    def bm25(self, query: str, k: int) -> list[dict[str, Any]]:
        """The best passages for the query's words; none that has no word of it."""
        words = re.findall(WORD, query.lower())
        if not words:
            raise ValueError("the query has no word")
        with self._lock:
            if self._words is None:
                self._words = self._indexed()
        if self._words is EMPTY:
            return []
        scores = self._words.get_scores(words)
        best = (-scores).argsort(kind="stable")[:k]
        return [
            self.passages.found(self.passages.cuts[place], float(scores[place]))
            for place in best
            if scores[place] > 0
        ]

    def _indexed(self) -> Any:
        import bm25s

        texts = [self.passages.read(cut) for cut in self.passages.cuts]
        tokens = bm25s.tokenize(texts, stopwords=[], token_pattern=WORD, show_progress=False)
        if not tokens.vocab:
            return EMPTY
        words = bm25s.BM25(method="lucene")
        words.index(tokens, show_progress=False)
        return words

    def regex(self, pattern: str, k: int) -> list[dict[str, Any]]:
        """The passages in which most matches begin; in order where they have equally many."""
        counted = self._counted(_compiled(pattern))
        best = heapq.nsmallest(k, counted, key=lambda found: -found[1])
        return [self.passages.found(*found) for found in best]

    def _counted(self, pattern: Any) -> Iterator[tuple[Passage, int]]:
        """Each passage in which matches begin, to the end of the last one, and how many."""
        deadline_s = time.monotonic() + REGEX_LIMIT_S
        for text, cuts in itertools.groupby(self.passages.cuts, key=lambda cut: cut.text):
            here = list(cuts)
            starts = [cut.start for cut in here]
            spans = _matches(pattern, self.passages.texts[text], deadline_s)
            found = itertools.groupby(spans, key=lambda span: bisect.bisect(starts, span[0]) - 1)
            for place, inside in found:
                matches, cut = list(inside), here[place]
                end = min(max(cut.end, matches[-1][1]), cut.end + PASSAGE_CHARS)
                yield Passage(text, cut.start, end), len(matches)


def _compiled(pattern: str) -> Any:
    """The pattern for RE2. Raises ValueError: it is none, or too large."""
    import re2

    options = re2.Options()
    options.never_capture = True
    options.log_errors = False
    options.max_mem = PATTERN_LIMIT_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        told = error.args[0]
        why = told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)
        raise ValueError(
            f"RE2 can't take this pattern: {why}. It has no look-around and no backreferences; "
            "Python's re can be used on context itself"
        ) from None


def _matches(pattern: Any, text: str, deadline_s: float) -> Iterator[tuple[int, int]]:
    """Where in the text its matches begin and end, in order; empty ones are left out.

    Raises TimeoutError when ``deadline_s`` has passed, or nobody waits any longer.
    """
    data = text.encode()
    counted_bytes = counted = 0
    position = 0
    while position < len(data):
        if is_gone() or time.monotonic() > deadline_s:
            raise TimeoutError(
                f"the pattern was searched for {REGEX_LIMIT_S:.0f} s without an end: use one that "
                "matches less often, or has no large counted repetition"
            )
        most = position + WINDOW_BYTES + MATCH_LIMIT_BYTES
        match = pattern.search(data, position, most)
        if match is None:
            position += WINDOW_BYTES
            continue
        start, end = match.span()
        if end == most:  # the window may have cut it
            end = pattern.match(data, start, start + MATCH_LIMIT_BYTES).end()
        position = max(end, start + 1)
        if start == end:
            continue
        span = []
        for place in (_boundary(data, start), _boundary(data, end)):
            counted += len(data[counted_bytes:place].decode())
            counted_bytes = place
            span.append(counted)
        yield span[0], span[1]


def _boundary(data: bytes, place: int) -> int:
    """The begin of the character at this byte: RE2 can be asked for single bytes."""
    while 0 < place < len(data) and data[place] & 0xC0 == 0x80:
        place -= 1
    return place
