"""Texts of a list or dict that are too short to be matched in part: found where they are whole."""

from collections.abc import Iterator

SHORTEST_TEXT_CHARS = 8
"""What is shorter stands anywhere."""


class ShortTexts:
    """Texts that are shorter than a match, of a list or dict: looked for whole, without the white
    space around them.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._sizes: dict[str, list[int]] = {}
        """By how they begin: the sizes of those that begin so, the longest first."""

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def enter(self, number: int, text: str) -> None:
        """Take up text ``number``."""
        core = text.strip()
        if core not in self._numbers:
            self._numbers[core] = number
            sizes = self._sizes.setdefault(core[:SHORTEST_TEXT_CHARS], [])
            if len(core) not in sizes:
                sizes.append(len(core))
                sizes.sort(reverse=True)

    def found(self, prompt: str, begin: int, end: int) -> Iterator[tuple[int, int, str]]:
        """Where in this part of the prompt one stands, its number, and what of it stands there.

        Not within a word: "Chapter 1" does not stand in "Chapter 12".
        """
        at = begin
        while at <= end - SHORTEST_TEXT_CHARS:
            sizes = self._sizes.get(prompt[at : at + SHORTEST_TEXT_CHARS], ())
            for size in sizes:
                core = prompt[at : at + size]
                if at + size <= end and core in self._numbers and _is_apart(prompt, at, at + size):
                    yield at, self._numbers[core], core
                    at += size - 1
                    break
            at += 1


def _is_apart(prompt: str, start: int, end: int) -> bool:
    """Whether no word goes on over an edge."""
    before = start > 0 and prompt[start - 1].isalnum() and prompt[start].isalnum()
    after = end < len(prompt) and prompt[end].isalnum() and prompt[end - 1].isalnum()
    return not before and not after
