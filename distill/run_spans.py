"""A run as a trace of OpenTelemetry, made of the records that go to its log, as they go there.

::

    invoke_agent distill                  the run: run_start … run_end
    ├── turn 1
    │   ├── chat MODEL                    the supervisor's reply: turn
    │   └── execute_tool repl             cell
    │       ├── execute_tool FUNCTION     primitive
    │       └── worker_batch              batch: sums over all its calls
    │           └── chat MODEL            call: some of them
    └── turn 2 …

Names and attributes are those of the semantic conventions for generative AI, 1.44
(https://opentelemetry.io/docs/specs/semconv/gen-ai/); what those have no name for begins with
``distill.``. Ids are hashes of the record's place, so that a parent may be sent when it has ended,
after its children. A sub-run is a trace of its own, linked to the cell that asked for it.
"""

import contextlib
import hashlib
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from distill.otlp import Collector
from distill.run_attributes import (
    Sums,
    batch_attributes,
    call_attributes,
    cell_attributes,
    chat_attributes,
    name_of,
    primitive_attributes,
    run_attributes,
    sendable,
    short,
)
from distill.spans import Span, SpanIds
from distill.supervisor.journal import Journal
from distill.traces import Run, records

LOG = logging.getLogger("distill")
CALLS_A_BATCH = 20
"""Of a batch, the calls that get a span of their own: its first ones, and any that failed."""
CALLS_A_CELL = 100
"""The most of them below one cell, and ``OTHERS_A_CELL`` of batches and functions."""
OTHERS_A_CELL = 100


def following(
    journal: Journal, run: str, collector: Collector | None, before: Run | None = None
) -> AbstractContextManager[None]:
    """While the context lasts, the run and its sub-runs are told to the collector, if there is one.

    ``before`` is what was logged of a run that goes on: it has the same trace.
    """
    if collector is None:
        return contextlib.nullcontext()
    begun = [run] if before is None else _family(before)
    return journal.heard(Followed(begun, collector).hear)


def _family(run: Run) -> list[str]:
    """The ids of a run and its sub-runs, at any depth."""
    return [run.id, *(each for sub in run.sub_runs for each in _family(sub))]


class Followed:
    """Runs that have begun, and their sub-runs. ``hear`` is called with what was logged, in any
    thread.
    """

    def __init__(self, begun: Sequence[str], collector: Collector) -> None:
        self._runs = {run: RunTrace(run, content=collector.content) for run in begun}
        self._collector = collector
        self._sender = collector.sender()
        self._lock = threading.Lock()
        self._has_failed = False

    def hear(self, lines: Sequence[records.AnyRecord]) -> None:
        """Send the spans of what has ended with these records."""
        if self._has_failed:
            return
        try:
            with self._lock:
                spans = [span for line in lines for span in self._spans(line)]
            if spans:
                self._sender.send(spans)
        except Exception:
            # Whatever it is, the run has nothing to do with it.
            self._has_failed = True
            LOG.exception("distill: no more spans are sent of this run")

    def _spans(self, line: records.AnyRecord) -> Iterator[Span]:
        above = line.parent if isinstance(line, records.RunStart) else None
        if above is not None and above.run in self._runs and line.run is not None:
            self._runs[line.run] = RunTrace(line.run, content=self._collector.content)
        trace = self._runs.get(line.run or "")
        return iter(()) if trace is None else trace.spans(line)


class CellTrace:
    """What is known of a cell that runs: its record comes when it has ended."""

    def __init__(self) -> None:
        self.sums = Sums()
        self.batches: dict[tuple[int, int], Sums] = {}
        """By the call's number, and how many batches it had made before."""
        self.ended: dict[int, int] = {}
        """How many batches a call has made."""
        self.calls = self.others = self.left_out = 0

    def may_send(self, *, is_call: bool) -> bool:
        """Whether one more span fits below the cell; it is counted."""
        count = self.calls if is_call else self.others
        if count >= (CALLS_A_CELL if is_call else OTHERS_A_CELL):
            self.left_out += 1
            return False
        if is_call:
            self.calls += 1
        else:
            self.others += 1
        return True


class RunTrace:
    """One run's spans, record after record."""

    def __init__(self, run: str, *, content: bool) -> None:
        self._run = run
        self._content = content
        self._trace_id = trace_id_of(run)
        self._root = self._ids("run")
        self._start: records.RunStart | None = None
        self._turn: tuple[int, float, float] | None = None
        """The turn that is open: its number, its begin and its last record."""
        self._cells: dict[int, CellTrace] = {}
        self._heard: list[records.Message] = []
        """The messages since the last reply, where texts are sent."""

    def _ids(self, *place: object, parent: SpanIds | None = None) -> SpanIds:
        return SpanIds(
            self._trace_id,
            span_id_of(self._run, *place),
            parent.span_id if parent is not None else 0,
        )

    def _of_turn(self, turn: int) -> SpanIds:
        """What a turn's spans are below: its own span; before the first, the run's."""
        return self._ids("turn", turn, parent=self._root) if turn else self._root

    def _of_cell(self, cell: int) -> SpanIds:
        return self._ids("cell", cell)

    def spans(self, record: records.AnyRecord) -> Iterator[Span]:
        """Those of what has ended with this record."""
        match record:
            case records.Call():
                yield from self._call(record)
            case records.Batch():
                yield from self._batch(record)
            case records.Primitive():
                yield from self._primitive(record)
            case records.Cell():
                yield from self._cell(record)
            case records.Turn():
                yield from self._replied(record)
            case records.Message() if self._content:
                self._heard.append(record)
            case records.RunStart():
                self._start = record
            case records.RunEnd():
                yield from self._end(record)

    def _replied(self, turn: records.Turn) -> Iterator[Span]:
        yield from self._turn_ended()
        start_s = turn.t - turn.elapsed_s
        self._turn = (turn.turn, start_s, turn.t)
        said, self._heard = self._heard, []
        yield Span(
            f"chat {short(turn.model)}",
            self._ids("chat", turn.turn, parent=self._of_turn(turn.turn)),
            start_s,
            turn.t,
            chat_attributes(self._start, turn, said),
            is_client=True,
        )

    def _turn_ended(self) -> Iterator[Span]:
        if self._turn is None:
            return
        turn, start_s, end_s = self._turn
        self._turn = None
        yield Span(f"turn {turn}", self._of_turn(turn), start_s, end_s, {"distill.turn": turn})

    def _cell(self, cell: records.Cell) -> Iterator[Span]:
        known = self._cells.pop(cell.cell, None) or CellTrace()
        if self._turn is not None:
            self._turn = (*self._turn[:2], cell.t)
        failed = cell.status in ("error", "lost")
        why = cell.error.message if cell.error is not None else cell.lost
        yield Span(
            "execute_tool repl",
            self._of_cell(cell.cell)._replace(parent_id=self._of_turn(cell.turn).span_id),
            cell.t - cell.elapsed_s,
            cell.t,
            cell_attributes(cell, known.sums, known.left_out, content=self._content),
            error=self._why(why) if failed else None,
        )

    def _primitive(self, call: records.Primitive) -> Iterator[Span]:
        if not self._cells.setdefault(call.cell, CellTrace()).may_send(is_call=False):
            return
        name = name_of(call.function, self._start)
        yield Span(
            f"execute_tool {name}",
            self._ids("primitive", call.cell, call.call, parent=self._of_cell(call.cell)),
            call.t - call.elapsed_s,
            call.t,
            primitive_attributes(call, name, content=self._content),
            error=self._why(call.error) if call.error is not None else None,
        )

    def _batch(self, batch: records.Batch) -> Iterator[Span]:
        cell = self._cells.setdefault(batch.cell, CellTrace())
        number = cell.ended.get(batch.call, 0)
        cell.ended[batch.call] = number + 1
        sums = cell.batches.pop((batch.call, number), None) or Sums()
        if not cell.may_send(is_call=False):
            return
        yield Span(
            batch.function,
            self._of_batch(batch.cell, batch.call, number),
            batch.t - batch.elapsed_s,
            batch.t,
            batch_attributes(batch, sums),
            error=self._why(batch.error) if batch.error is not None else None,
        )

    def _of_batch(self, cell: int, call: int, number: int) -> SpanIds:
        return self._ids("batch", cell, call, number, parent=self._of_cell(cell))

    def _call(self, call: records.Call) -> Iterator[Span]:
        cell = self._cells.setdefault(call.cell, CellTrace())
        number = cell.ended.get(call.call, 0)
        sums = cell.batches.setdefault((call.call, number), Sums())
        cell.sums.add(call)
        sums.add(call)
        is_wanted = sums.calls <= CALLS_A_BATCH or call.error is not None
        if not is_wanted:
            cell.left_out += 1
        elif cell.may_send(is_call=True):
            yield Span(
                f"chat {short(call.model.model)}",
                self._ids("call", call.id, parent=self._of_batch(call.cell, call.call, number)),
                call.t - call.total_s,
                call.t,
                call_attributes(call, content=self._content),
                error=self._why(call.error.detail) if call.error is not None else None,
                is_client=True,
            )

    def _end(self, end: records.RunEnd) -> Iterator[Span]:
        yield from self._turn_ended()
        start, parent = self._start, None
        if start is not None and start.parent is not None:
            above = start.parent
            parent = SpanIds(trace_id_of(above.run), span_id_of(above.run, "cell", above.cell))
        failed = end.status in ("failed", "cancelled")
        yield Span(
            "invoke_agent distill",
            self._root,
            start.t if start is not None else end.t - end.elapsed_s,
            end.t,
            run_attributes(self._run, start, end, content=self._content),
            error=self._why(end.error) if failed else None,
            link=parent,
        )

    def _why(self, text: str | None) -> str:
        """What a status says of a failure; it may quote anything, so it is a text of the run."""
        return sendable(text or "") if self._content else ""


def trace_id_of(run: str) -> int:
    """The trace of a run, 128 bits."""
    return int.from_bytes(hashlib.sha256(run.encode()).digest()[:16]) or 1


def span_id_of(run: str, *place: object) -> int:
    """The span of a place in a run, 64 bits."""
    told = "/".join(map(str, (run, *place)))
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:8]) or 1
