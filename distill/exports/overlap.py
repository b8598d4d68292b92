"""Whether a passage is from a text, also where it was cut or changed a little."""

import zlib
from collections.abc import Iterable, Iterator

from distill.exports.duplicates import plain

WINDOW_WORDS = 8
ONE_OF = 8
"""Of the windows of a text, so many times fewer are kept: which, their own checksum decides."""


class Texts:
    """Texts, kept as checksums of some of their windows of 8 words: 10 MB take some 20 MB.

    Which windows are kept depends on their words alone ("0 mod p" in Schleimer, Wilkerson, Aiken
    2003, "Winnowing"), so two texts keep the same ones of a passage that they share. If chance
    decides which, a shared passage of 40 words goes unnoticed once in 80 cases, one of 80 words
    once in 17,000.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._plain = [plain(text) for text in texts]
        self._kept = {kept for text in self._plain for kept in _kept(text)}

    def share(self, passage: str) -> bool:
        """Whether a window of the passage stands in one of the texts, or, if it has none, it."""
        if not self._plain:
            return False
        words = plain(passage)
        kept = set(_kept(words))
        if kept:
            return not kept.isdisjoint(self._kept)
        return any(words in text for text in self._plain)


def _kept(text: str) -> Iterator[int]:
    words = text.encode("utf-8", "replace").split()
    for place in range(len(words) - WINDOW_WORDS + 1):
        window = b" ".join(words[place : place + WINDOW_WORDS])
        checksum = zlib.crc32(window)
        if checksum % ONE_OF == 0:  # 29 bits are left, in which millions of windows would meet
            yield checksum << 32 | zlib.adler32(window)
