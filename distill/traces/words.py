"""Texts as words, and where the words of another text stand in them in a row."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distill.traces.grams import Hashes, gram_hashes

RUN_WORDS = 8
"""Fewer are looked for whole, more by so many in a row."""
WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
"""Chinese, Japanese and Korean have no spaces between words: there each character is one."""
ESCAPED = re.compile(r"\\[nrt]")
"""A list that is printed has its line breaks spelled out."""
BREAK = 0
"""Stands between two texts, as no word's number."""
UNKNOWN = 0xFFFFFFFF

Numbers = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Place:
    """Characters ``start:end`` of text number ``text``. ``is_all``: it has no other words.
    ``chars`` are those of the words.
    """

    text: int
    start: int
    end: int
    chars: int
    is_all: bool


def words_of(text: str) -> list[str]:
    """Its words in lower case, without punctuation."""
    return [word for word, _, _ in _spans(text)]


def _spans(text: str) -> Iterator[tuple[str, int, int]]:
    even = ESCAPED.sub("  ", text)
    for match in WORD.finditer(even):
        yield match[0].lower(), match.start(), match.end()


class Words:
    """The words of some texts, as numbers; finds words in a row by the hashes of their grams."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._vocabulary: dict[str, int] = {}
        numbers, starts, ends = [BREAK], [0], [0]
        self._bounds = [1]
        """Where the words of each text begin, and where the last one's would."""
        for text in texts:
            for word, start, end in _spans(text):
                numbers.append(self._vocabulary.setdefault(word, len(self._vocabulary) + 1))
                starts.append(start)
                ends.append(end)
            numbers.append(BREAK)
            starts.append(0)
            ends.append(0)
            self._bounds.append(len(numbers))
        self._numbers = np.array(numbers, np.uint32)
        self._starts, self._ends = starts, ends
        self._grams: dict[int, tuple[Hashes, npt.NDArray[np.int64]]] = {}
        self._whole = self._whole_texts()

    def places(self, words: Sequence[str], begin: int, end: int) -> Iterator[Place]:
        """Where they stand in the texts from number ``begin`` to before ``end``: all of them in a
        row, or, if they are ``RUN_WORDS`` or more, each run of at least so many.
        """
        numbers = self._known(words)
        first, stop = self._bounds[begin], self._bounds[end]
        if 0 < len(numbers) < RUN_WORDS:
            if UNKNOWN not in numbers:
                for at in self._ats(numbers, first, stop):
                    yield self._place(at, len(numbers))
        elif _longest_known(numbers) >= RUN_WORDS:
            yield from self._runs(numbers, first, stop)

    def texts_of_just(self, words: Sequence[str]) -> Iterator[Place]:
        """The texts that are these words, of which there must be fewer than ``RUN_WORDS``."""
        numbers = tuple(self._known(words).tolist())
        for text in self._whole.get(len(numbers), {}).get(numbers, ()):
            yield self._place(self._bounds[text], len(numbers))

    def whole_texts_in(self, words: Sequence[str], least_chars: int) -> Iterator[Place]:
        """The texts of fewer than ``RUN_WORDS`` words that stand whole among these, once each.

        Those of fewer characters are left out.
        """
        numbers = self._known(words).tolist()
        for size, whole in self._whole.items():
            starts = range(len(numbers) - size + 1)
            for gram in dict.fromkeys(tuple(numbers[at : at + size]) for at in starts):
                texts = whole.get(gram, ())
                if texts and self._place(self._bounds[texts[0]], size).chars >= least_chars:
                    yield from (self._place(self._bounds[text], size) for text in texts)

    def _whole_texts(self) -> dict[int, dict[tuple[int, ...], list[int]]]:
        """The short texts: by how many words they have, by these."""
        found: dict[int, dict[tuple[int, ...], list[int]]] = {}
        for text, (begin, end) in enumerate(itertools.pairwise(self._bounds)):
            size = end - begin - 1
            if 0 < size < RUN_WORDS:
                words = tuple(self._numbers[begin : end - 1].tolist())
                found.setdefault(size, {}).setdefault(words, []).append(text)
        return found

    def _known(self, words: Sequence[str]) -> Numbers:
        return np.array([self._vocabulary.get(word, UNKNOWN) for word in words], np.uint32)

    def _runs(self, numbers: Numbers, first: int, stop: int) -> Iterator[Place]:
        """Left to right, each as long as it is where it stands first."""
        at = 0
        sorted_grams, _ = self._index(RUN_WORDS)
        hashes = gram_hashes(numbers, RUN_WORDS)
        near = np.minimum(np.searchsorted(sorted_grams, hashes), len(sorted_grams) - 1)
        likely = sorted_grams[near] == hashes if len(sorted_grams) else np.zeros(0, np.bool_)
        for candidate in np.flatnonzero(likely).tolist():
            if candidate < at:
                continue
            found = next(self._ats(numbers[candidate : candidate + RUN_WORDS], first, stop), None)
            if found is None:
                continue
            size = self._equal(numbers[candidate:], found)
            yield self._place(found, size)
            at = candidate + size

    def _equal(self, numbers: Numbers, at: int) -> int:
        """How many words agree from here on."""
        here = self._numbers[at : at + len(numbers)]
        differing = np.flatnonzero(here != numbers[: len(here)])
        return int(differing[0]) if len(differing) else len(here)

    def _ats(self, numbers: Numbers, first: int, stop: int) -> Iterator[int]:
        """Where just these words stand, in order, from word ``first`` to before ``stop``."""
        hashes, order = self._index(len(numbers))
        wanted = gram_hashes(numbers, len(numbers))[0]
        low, high = np.searchsorted(hashes, wanted), np.searchsorted(hashes, wanted, "right")
        here = order[low:high]
        for at in map(int, here[np.searchsorted(here, first) :]):  # mostly only the first is wanted
            if at >= stop:
                return
            if np.array_equal(self._numbers[at : at + len(numbers)], numbers):
                yield at

    def _index(self, size: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
        """All grams of so many words, sorted by hash and place."""
        if size not in self._grams:
            short = size > len(self._numbers)
            hashes = np.empty(0, np.uint64) if short else gram_hashes(self._numbers, size)
            order = np.argsort(hashes, kind="stable")
            self._grams[size] = hashes[order], order
        return self._grams[size]

    def _place(self, at: int, size: int) -> Place:
        text = int(np.searchsorted(self._bounds, at, "right")) - 1
        begin, end = self._bounds[text], self._bounds[text + 1] - 1
        chars = sum(self._ends[word] - self._starts[word] for word in range(at, at + size))
        return Place(
            text,
            self._starts[at],
            self._ends[at + size - 1],
            chars,
            begin == at and end == at + size,
        )


def _longest_known(numbers: Numbers) -> int:
    """Of words in a row that stand somewhere in the texts."""
    unknown = np.flatnonzero(numbers == UNKNOWN)
    edges = np.concatenate([[-1], unknown, [len(numbers)]])
    return int(np.diff(edges).max()) - 1
