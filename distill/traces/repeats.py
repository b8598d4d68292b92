"""Where else in a text its passages stand: every place of each, in time that grows with the text.

Of each passage some grams (stretches of GRAM_CHARS characters) are hashed. The text is hashed gram
by gram, a window at a time; the gram that stands in the fewest places says where to look, and what
is found there is compared character by character. A hash that two grams share costs a comparison,
never a wrong or a missing place.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distill.traces.grams import Hashes, gram_hashes

GRAM_CHARS = 40
"""Shorter passages are one gram of their own length."""
GRAMS = 8
"""Of a passage that are tried: the rarest of them is looked up."""
PLACES_LIMIT = 10_000
"""Of one passage that are looked at."""
ALL_PLACES_LIMIT = 2_000_000
"""Of all passages together: some seconds."""
CHARS_A_PLACE = 4000
"""Of a passage, what is compared as fast as a place is noted: longer ones count for more."""
WINDOW_CHARS = 1 << 18
"""Hashed at once: such arrays fit a core's cache."""
SIEVE_BITS = 24

Places = npt.NDArray[np.int64]


class Passage(NamedTuple):
    """Characters ``start:end`` of text number ``text``."""

    text: int
    start: int
    end: int


def places(texts: Sequence[str], passages: Sequence[Passage]) -> list[list[Passage] | None]:
    """All places of each passage, its own among them, in the order of the texts.

    Passages that are the same text share one list; None stands for one of too many places to look
    at. Passages must lie within their texts and not be empty.
    """
    found: list[list[Passage] | None] = [[each] for each in passages]
    joined = _Joined(texts)
    sizes = [min(GRAM_CHARS, each.end - each.start) for each in passages]
    left = ALL_PLACES_LIMIT
    known: dict[str, list[Passage] | None] = {}
    for size in sorted(set(sizes)):
        chosen = [number for number, each in enumerate(sizes) if each == size]
        grams = _rarest(joined, size, [passages[number] for number in chosen])
        wanted = np.unique(grams.hashes[(grams.counts > 1) & (grams.counts <= PLACES_LIMIT)])
        where = _Where(joined, size, wanted)
        for row in np.flatnonzero(grams.counts > 1).tolist():
            passage, count = passages[chosen[row]], int(grams.counts[row])
            text = texts[passage.text][passage.start : passage.end]
            cost = count * (1 + len(text) // CHARS_A_PLACE)
            if text not in known and count <= PLACES_LIMIT and cost <= left:
                left -= cost
                known[text] = joined.equal(
                    passage, where.of(grams.hashes[row]) - grams.offsets[row]
                )
            found[chosen[row]] = known.get(text)
    return found


def repeated_blocks(texts: Sequence[str], block: int) -> set[str]:
    """The aligned blocks of so many characters that stand more than once in the texts, wherever
    they begin; seldom one that does not.
    """
    joined = _Joined(texts)
    starts = [
        np.arange(start, end - block + 1, block)
        for start, end in zip(joined.starts.tolist(), joined.ends.tolist(), strict=True)
    ]
    ats = np.concatenate([np.empty(0, np.int64), *starts])
    _, counts = _counted(joined, block, ats)
    return {joined.text[at : at + block] for at in ats[counts > 1].tolist()}


class _Joined:
    """All texts in one, and what is where in it."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.text = "\n".join(texts)
        sizes = np.array([len(text) + 1 for text in texts], np.int64)
        self.ends = np.cumsum(sizes) - 1
        self.starts = self.ends + 1 - sizes

    def at(self, passage: Passage) -> int:
        """Where a passage begins in the whole."""
        return int(self.starts[passage.text]) + passage.start

    def equal(self, passage: Passage, ats: Places) -> list[Passage]:
        """Those places in the whole at which the passage stands, within one text."""
        size = passage.end - passage.start
        start = self.at(passage)
        wanted = self.text[start : start + size]
        same = []
        for at, text in zip(
            ats.tolist(), np.searchsorted(self.ends, ats, "right").tolist(), strict=True
        ):
            begin = at - int(self.starts[text]) if text < len(self.starts) else -1
            fits = begin >= 0 and at + size <= int(self.ends[text])
            if fits and self.text.startswith(wanted, at):
                same.append(Passage(text, begin, begin + size))
        return same


class _Grams(NamedTuple):
    """Of each passage the rarest gram that was tried: its hash, its place in it, its count."""

    hashes: Hashes
    offsets: Places
    counts: Places


def _rarest(joined: _Joined, size: int, passages: Sequence[Passage]) -> _Grams:
    starts = np.array([joined.at(each) for each in passages], np.int64)
    last = np.array([each.end - each.start - size for each in passages], np.int64)
    offsets = (last[:, None] * np.arange(GRAMS)) // (GRAMS - 1)
    hashes, each = _counted(joined, size, starts[:, None] + offsets)
    best = each.argmin(axis=1)
    rows = np.arange(len(passages))
    return _Grams(hashes[rows, best], offsets[rows, best], each[rows, best])


def _counted(joined: _Joined, size: int, ats: Places) -> tuple[Hashes, Places]:
    """The hashes of the grams that begin at these places, and how often each stands anywhere."""
    hashes = _hashes_at(joined.text, size, ats)
    keys, inverse = np.unique(hashes, return_inverse=True)
    counts = np.zeros(len(keys), np.int64)
    for numbers, _ in _hits(joined.text, size, keys):
        counts += np.bincount(numbers, minlength=len(keys))
    return hashes, counts[inverse.reshape(hashes.shape)]


class _Where:
    """The places of some grams, by their hash."""

    def __init__(self, joined: _Joined, size: int, keys: Hashes) -> None:
        hits = list(_hits(joined.text, size, keys)) if len(keys) else []
        numbers = np.concatenate([np.empty(0, np.int64), *(number for number, _ in hits)])
        ats = np.concatenate([np.empty(0, np.int64), *(at for _, at in hits)])
        order = np.argsort(numbers, kind="stable")
        self._keys, self._ats = keys, ats[order]
        self._bounds = np.searchsorted(numbers[order], np.arange(len(keys) + 1))

    def of(self, key: np.uint64) -> Places:
        """Where the gram of this hash, which must be among the keys, stands; in order."""
        number = int(np.searchsorted(self._keys, key))
        begin, end = self._bounds[number : number + 2].tolist()
        here: Places = self._ats[begin:end]
        return here


def _hits(text: str, size: int, keys: Hashes) -> Iterator[tuple[Places, Places]]:
    """The grams of the text whose hash is a key: numbers of keys and places, window by window."""
    sieve = np.zeros(1 << SIEVE_BITS, np.bool_)
    mask = np.uint64((1 << SIEVE_BITS) - 1)
    sieve[(keys & mask).astype(np.int64)] = True
    for base, hashes in _windows(text, size):
        likely = np.flatnonzero(sieve[(hashes & mask).astype(np.int64)])
        numbers = np.searchsorted(keys, hashes[likely])
        numbers[numbers == len(keys)] = 0
        true = keys[numbers] == hashes[likely]
        yield numbers[true], likely[true] + base


def _hashes_at(text: str, size: int, ats: Places) -> Hashes:
    """The hashes of the grams that begin at these places."""
    wanted = ats.ravel()
    found = np.empty(len(wanted), np.uint64)
    order = np.argsort(wanted, kind="stable")
    in_order = wanted[order]
    begun = 0
    for base, hashes in _windows(text, size):
        stop = int(np.searchsorted(in_order, base + len(hashes)))
        rows = order[begun:stop]
        found[rows] = hashes[wanted[rows] - base]
        begun = stop
    return found.reshape(ats.shape)


def _windows(text: str, size: int) -> Iterator[tuple[int, Hashes]]:
    """Where each window begins, and the hashes of the grams that begin in it."""
    for base in range(0, len(text) - size + 1, WINDOW_CHARS):
        piece = text[base : base + WINDOW_CHARS + size - 1]
        codes = np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), np.uint32)
        yield base, gram_hashes(codes, size)
