"""``--dedup``: rows that are there already, to the letter or all but."""

import string
import unicodedata
from hashlib import blake2b
from typing import Literal

DIGEST_BYTES = 16
SPACED = str.maketrans(dict.fromkeys(string.punctuation, " "))

Duplicate = Literal["exact", "near"]


class Seen:
    """The rows so far, as digests: 100,000 rows take some 20 MB, whatever their length."""

    def __init__(self) -> None:
        self._exact: set[bytes] = set()
        self._near: set[bytes] = set()

    def check(self, texts: tuple[str, ...]) -> Duplicate | None:
        """What a row with these texts doubles, None if it is new; from now on it is there.

        ``near``: they are equal without case, white space, ASCII punctuation and what Unicode's
        NFKC form takes for the same.
        """
        exact = _digest(texts)
        if exact in self._exact:
            return "exact"
        self._exact.add(exact)
        near = _digest(tuple(map(plain, texts)))
        if near in self._near:
            return "near"
        self._near.add(near)
        return None


def plain(text: str) -> str:
    """The text without what makes no difference between near duplicates."""
    words = unicodedata.normalize("NFKC", text).casefold().translate(SPACED).split()
    return " ".join(words)


def _digest(texts: tuple[str, ...]) -> bytes:
    joined = "\x00".join(texts).encode("utf-8", "surrogatepass")
    return blake2b(joined, digest_size=DIGEST_BYTES).digest()
