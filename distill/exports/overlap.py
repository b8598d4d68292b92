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
    2003, "Winnowing"), so two texts keep the same ones of a passage that they share. A passage of
    which none is kept is looked for letter by letter, so whatever stands in a text is noticed. If
    chance decides which are kept, 40 shared words in a passage that is otherwise another one go
    unnoticed once in 80 cases, 80 words once in 17,000.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._plain = [plain(text) for text in texts]
        self._kept = {kept for text in self._plain for kept in _kept(text)}

    def share(self, passage: str) -> bool:
        """Whether a window of the passage stands in one of the texts, or, if none is kept, it.

        Its first and last word are in no window: a passage that was cut may begin and end in the
        middle of one.
        """
        if not self._plain:
            return False
        words = plain(passage)
        kept = set(_kept(" ".join(words.split()[1:-1])))
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
