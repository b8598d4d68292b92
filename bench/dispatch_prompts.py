"""What all contestants of bench/dispatch ask: passages of one real text, each with a question."""

from __future__ import annotations

from pathlib import Path

TEXT = Path(__file__).parent.parent / "examples" / "kjv.txt"
IN_FLIGHT = 96
"""Requests that no contestant has more of on their way: a GPU worker's slots."""


def context() -> str:
    """The text; ASCII, so that a character is a byte."""
    return TEXT.read_text().encode("ascii", "replace").decode()


def prompts(text: str, count: int, size_bytes: int, first: int) -> list[str]:
    """``count`` prompts of that size, numbered from ``first``: none is ever asked twice."""
    made = []
    for number in range(first, first + count):
        question = f"Who is named first in passage {number:,}? Answer with one name.\n\n"
        length = size_bytes - len(question)
        start = number * 7919 % (len(text) - length)
        made.append(question + text[start : start + length])
    return made
