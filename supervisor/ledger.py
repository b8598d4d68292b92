"""What a session's host functions answered, so that its cells can be run again without them.

A call is known by its cell, the hash of its function and arguments, and which of equal calls it
is: the order in which threads arrive is not stable, equal calls are interchangeable.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from distill.protocol.jail_link import CallError

_encoder = msgspec.json.Encoder(order="sorted")


def call_key(function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The hash of a call: equal for equal functions and JSON-like arguments."""
    return content_hash([function, args, kwargs])


def content_hash(value: Any) -> str:
    """The hash of a JSON-like value: equal for equal ones."""
    try:
        data = _encoder.encode(value)
    except (OverflowError, UnicodeEncodeError):  # integers over 64 bits, lone surrogates
        data = json.dumps(value, sort_keys=True, default=msgspec.to_builtins).encode()
    return hashlib.sha256(data).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call got: a value, or the error that was raised in the cell.

    ``place`` is the call's cell and number there, in the log that it is from.
    """

    value: Any = None
    error: CallError | None = None
    place: tuple[int, int] | None = field(default=None, compare=False)


class Ledger:
    """Answers by cell and call. A call is entered once it is in the log, not before."""

    def __init__(self) -> None:
        self._cells: dict[int, dict[str, list[Answer]]] = defaultdict(lambda: defaultdict(list))
        self._given: Counter[tuple[int, str]] = Counter()

    def enter(self, cell: int, key: str, answer: Answer) -> None:
        """The cell's next call of this key got this answer."""
        self._cells[cell][key].append(answer)

    def rewind(self) -> None:
        """From here on every cell's calls are answered from their first on."""
        self._given.clear()

    def give(self, cell: int, key: str) -> Answer | None:
        """The answer to the cell's next call of this key; None if it never made that call."""
        answers = self._cells[cell][key] if cell in self._cells else []
        number = self._given[cell, key]
        if number >= len(answers):
            return None
        self._given[cell, key] += 1
        return answers[number]

    def missing(self, cell: int) -> int:
        """How many of the cell's calls have not been asked for since the rewind."""
        calls = self._cells.get(cell, {})
        return sum(len(answers) - self._given[cell, key] for key, answers in calls.items())
