"""The worker calls of one run as columns: what is needed to draw, sort and filter 100,000 of them.

A row is a line of ``worker.jsonl``; its text stays in the file, at ``offsets``.
"""

from array import array
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from distill.traces import records

PAGE_ROWS = 5000
"""Rows that the page asks for at a time."""
ANSWER_CHARS = 80
"""Of an answer, what the table of calls shows."""
BLOCK_BYTES = 256 << 10
"""Of lines, where a block of an exported file ends: what is unpacked to show one call."""
BLOCK_ROWS = 64
LARGEST = (1 << 53) - 1
"""The largest whole number that JavaScript tells apart."""
CLOCK_LIMIT_S = 1e12
"""What no clock says: some 30,000 years before and after 1970."""

WHOLE = ("turn", "cell", "call", "item", "attempt", "input", "output", "cached", "server", "status")
MILLISECONDS = ("end", "total", "queue", "compute", "gpu")


class CallLine(
    msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="call", omit_defaults=True
):
    """Of a call's line, all but its texts and token ids, which are passed over as it is read.

    What every call has must be there, or the line is none, as for who reads all of it.
    """

    t: float
    run: str | None
    producer: records.Producer
    id: str
    turn: int
    cell: int
    call: int
    item: int
    function: str
    attempt: int
    prompt: msgspec.Raw
    sampling: msgspec.Raw
    response: str | None
    finish_reason: str | None
    usage: records.TokenUsage
    model: records.Model
    v: int = 1
    source: Literal["sampled", "cached", "reused", "replayed"] = "sampled"
    spans: tuple[records.Span, ...] = ()
    error: records.CallFailure | None = None
    queue_s: float = 0.0
    compute_s: float = 0.0
    total_s: float = 0.0
    gpu_s: float = 0.0


class Names:
    """Texts by number, in the order that they came."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def number(self, name: str) -> int:
        """The number of a name, a new one if need be."""
        return self.known.setdefault(name, len(self.known))

    def all(self) -> list[str]:
        """All names."""
        return list(self.known)


def status_of(line: CallLine | records.Call) -> str:
    """How a call ended, in a word: why it failed, that it was cut, or where it came from."""
    if line.error is not None or line.response is None:
        return f"failed: {line.error.kind}" if line.error is not None else "failed"
    if line.source != "sampled":
        return line.source
    return "cut" if line.finish_reason == "length" else "ok"


class CallColumns:
    """Grows as lines come. Times are whole milliseconds, ``end`` since 1970."""

    def __init__(self) -> None:
        self.offsets, self.lengths = array("Q"), array("Q")
        self.numbers = {name: array("q") for name in (*WHOLE, *MILLISECONDS)}
        self.dollars = array("d")
        self.answers: list[str] = []
        self.servers, self.statuses, self.parts = Names(), Names(), Names()
        self.spans = {name: array("q") for name in ("row", "part", "start", "end")}
        self.first_spans = array("Q", [0])
        """Of each row, and of the next one to come."""
        self.failed = 0
        self.blocks = [0]
        """The first row of each block of an exported file."""
        self._block_bytes = 0
        self._failures: set[int] = set()

    def __len__(self) -> int:
        return len(self.offsets)

    def add(self, line: CallLine, offset: int, length: int, dollars: float) -> None:
        """A call whose line of ``length`` bytes begins at ``offset``."""
        self._place(offset, length)
        status = status_of(line)
        if status.startswith("failed"):
            self.failed += 1
            self._failures.add(self.statuses.number(status))
        usage, numbers = line.usage, self.numbers
        whole = (
            line.turn, line.cell, line.call, line.item, line.attempt, usage.input_tokens,
            usage.output_tokens, usage.cached_input_tokens,
            self.servers.number(line.producer.name), self.statuses.number(status),
        )  # fmt: skip
        for name, value in zip(WHOLE, whole, strict=True):
            numbers[name].append(within(value))
        seconds = (line.t, line.total_s, line.queue_s, line.compute_s, line.gpu_s)
        for name, value_s in zip(MILLISECONDS, seconds, strict=True):
            numbers[name].append(milliseconds(value_s))
        self.dollars.append(dollars)
        told = line.response if line.response is not None else line.error and line.error.detail
        self.answers.append((told or "")[:ANSWER_CHARS])
        for span in line.spans:
            part = self.parts.number("" if span.part is None else span.part)
            place = (len(self.answers) - 1, part, within(span.start), within(span.end))
            for name, number in zip(self.spans, place, strict=True):
                self.spans[name].append(number)
        self.first_spans.append(len(self.spans["row"]))

    def _place(self, offset: int, length: int) -> None:
        row = len(self.offsets)
        is_full = self._block_bytes + length > BLOCK_BYTES or row - self.blocks[-1] >= BLOCK_ROWS
        if is_full and row > self.blocks[-1]:
            self.blocks.append(row)
            self._block_bytes = 0
        self._block_bytes += length
        self.offsets.append(offset)
        self.lengths.append(length)

    def is_failed(self, row: int) -> bool:
        """Whether there is no answer."""
        return self.numbers["status"][row] in self._failures

    @property
    def pages(self) -> int:
        """How many pages of rows there are."""
        return -(-len(self) // PAGE_ROWS)

    def page(self, number: int) -> dict[str, Any]:
        """Rows ``number * PAGE_ROWS`` and on, by column; names and spans with them."""
        start = number * PAGE_ROWS
        end = min(start + PAGE_ROWS, len(self))
        spans = slice(self.first_spans[min(start, end)], self.first_spans[end])
        return {
            "start": start,
            "columns": {name: column[start:end].tolist() for name, column in self.numbers.items()},
            "dollars": [round(each, 6) for each in self.dollars[start:end]],
            "answers": self.answers[start:end],
            "spans": {name: column[spans].tolist() for name, column in self.spans.items()},
            "servers": self.servers.all(),
            "statuses": self.statuses.all(),
            "parts": self.parts.all(),
        }

    def block_rows(self) -> Iterator[range]:
        """The rows of each block of an exported file."""
        for start, end in zip(self.blocks, [*self.blocks[1:], len(self)], strict=True):
            yield range(start, end)


def within(number: int) -> int:
    """A whole number that JavaScript and a column can hold."""
    return max(-LARGEST, min(LARGEST, number))


def on_clock(time_s: float) -> float:
    """The time; what no clock says (a log may) is the first or the last one that it could."""
    return max(-CLOCK_LIMIT_S, min(CLOCK_LIMIT_S, time_s))


def milliseconds(time_s: float) -> int:
    """The nearest whole millisecond."""
    return round(on_clock(time_s) * 1000)
