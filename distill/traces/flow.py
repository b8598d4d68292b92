"""Where the answers of workers went: to the code, to what it printed, to the final answer.

What is found is words that are the same in a row, upper and lower case and punctuation aside. It is
a match, not a cause: the code may have had the same words from elsewhere.
"""

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distill.traces.reading import Run
from distill.traces.words import RUN_WORDS, Words, words_of

SHORT_CHARS = 4
"""A shorter answer ("no", "7") says little: in a text it counts only as all of it, and printed only
by the cell that asked."""
PLACES_SHOWN = 10
"""Of one answer, in what was printed and in the final answer."""
METHOD = (
    f"the whole of a worker's answer, or {RUN_WORDS} of its words in a row, case and punctuation "
    "aside; a match, not a cause"
)


@dataclass(frozen=True, slots=True)
class Printed:
    """Characters ``start:end`` of what ``cell`` printed."""

    cell: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class InAnswer:
    """Characters ``start:end`` of a text of the final answer; ``path`` is its JSON pointer, empty
    where the answer is a text.
    """

    path: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Flow:
    """Where the answer of one worker call went, ``call`` being its id.

    ``returned``: the cell got it as the value of its call; not where the call raised, or was cut
    off. ``printed`` and ``in_answer`` are matches.
    """

    call: str
    returned: bool
    printed: tuple[Printed, ...] = ()
    in_answer: tuple[InAnswer, ...] = ()


def of(run: Run) -> tuple[Flow, ...]:
    """The flow of every call that was answered, in the order of the log."""
    returned = {(each.cell, each.call) for each in run.batches if each.error is None}
    printed, final = _Printed(run), Final(run.answer)
    shown: dict[tuple[int, str], tuple[Printed, ...]] = {}
    in_answer: dict[str, tuple[InAnswer, ...]] = {}
    flows = []
    for call in run.calls:
        if (answer := call.response) is None:
            continue
        if (key := (call.cell, answer)) not in shown:
            words = words_of(answer)
            shown[key] = printed.places(words, call.cell)
            if answer not in in_answer:
                in_answer[answer] = final.places(words)
        is_returned = (call.cell, call.call) in returned
        flows.append(Flow(call.id, is_returned, shown[key], in_answer[answer]))
    return tuple(flows)


def _is_short(words: list[str]) -> bool:
    return sum(map(len, words)) < SHORT_CHARS


class _Printed:
    """What the cells of a run printed."""

    def __init__(self, run: Run) -> None:
        cells = sorted(run.cells, key=lambda each: each.cell)
        self._cells = [each.cell for each in cells]
        self._words = Words([each.stdout for each in cells])

    def places(self, words: list[str], cell: int) -> tuple[Printed, ...]:
        """Where the cell that asked, or a later one, printed them."""
        begin = bisect.bisect_left(self._cells, cell)
        end = bisect.bisect_right(self._cells, cell) if _is_short(words) else len(self._cells)
        found = self._words.places(words, begin, end)
        return tuple(
            Printed(self._cells[each.text], each.start, each.end)
            for each in itertools.islice(found, PLACES_SHOWN)
        )


class Final:
    """The texts of the final answer."""

    def __init__(self, answer: Any) -> None:
        leaves = list(_leaves(answer))
        self._paths = [path for path, _ in leaves]
        self._words = Words([text for _, text in leaves])

    def places(self, words: list[str]) -> tuple[InAnswer, ...]:
        """Where the final answer has them; a short text of it may also be a part of them."""
        if _is_short(words):  # it may stand in a long text at every other word
            found = self._words.texts_of_just(words)
        else:
            found = self._words.places(words, 0, len(self._paths))
        whole = self._words.whole_texts_in(words, SHORT_CHARS)
        places = {
            InAnswer(self._paths[each.text], each.start, each.end): None
            for each in itertools.islice(itertools.chain(found, whole), PLACES_SHOWN)
        }
        return tuple(places)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The texts and numbers of a JSON-like value, with their JSON pointers (RFC 6901)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            step = str(key).replace("~", "~0").replace("/", "~1")
            yield from _leaves(inner, f"{path}/{step}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{path}/{number}")
    elif value is not None:
        yield path, value if isinstance(value, str) else str(value)
