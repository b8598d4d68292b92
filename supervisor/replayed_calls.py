"""The log of a run that is done again: what its calls had got is in it, as in the recorded one's.

So it tells the same of evidence and coverage, and can be done again itself.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from distill.supervisor.answer_form import AnswerForm
from distill.supervisor.calls import WorkerCalls
from distill.supervisor.run_log import RunLog
from distill.traces import Run, records

Place = tuple[int, int]
"""A call's cell and its number there."""


class ReplayedCalls:
    """Writes the worker calls of a recorded run into the log of the run that does it again."""

    def __init__(self, run: Run, log: RunLog, calls: WorkerCalls) -> None:
        self._log = log
        self._calls = calls
        self._numbers = itertools.count(1)
        self._batches: defaultdict[Place, list[records.Batch]] = defaultdict(list)
        self._lines: defaultdict[Place, list[records.Call]] = defaultdict(list)
        self._primitives: defaultdict[Place, list[records.Primitive]] = defaultdict(list)
        for batch in run.batches:
            self._batches[batch.cell, batch.call].append(batch)
        for line in run.calls:
            self._lines[line.cell, line.call].append(line)
        for call in run.primitives:
            self._primitives[call.cell, call.call].append(call)

    def write(self, recorded: Place, place: Place) -> None:
        """The recorded call was answered once more, at this place."""
        cell, call = place
        lines = [self._line(line, place) for line in self._lines[recorded]]
        self._log.calls(lines)
        self._log.journal.supervisor(
            *(
                msgspec.structs.replace(batch, **self._log.stamp(), cell=cell, call=call)
                for batch in self._batches[recorded]
            )
        )
        self._calls.count_replayed(lines)

    def write_killed(self, cell: int, recorded: int) -> None:
        """A cell is not run again but killed as it was: all that it had called."""
        for place in self._places(recorded):
            self.write(place, (cell, place[1]))
            self._log.journal.supervisor(
                *(
                    msgspec.structs.replace(
                        call, **self._log.stamp(), cell=cell, replayed=True, reused=False
                    )
                    for call in self._primitives[place]
                )
            )

    def _places(self, cell: int) -> Sequence[Place]:
        return sorted(
            {p for p in (*self._batches, *self._lines, *self._primitives) if p[0] == cell}
        )

    def _line(self, line: records.Call, place: Place) -> records.Call:
        keeps_ids = AnswerForm.of_line(line).logprobs  # the cell was given them
        return msgspec.structs.replace(
            line,
            **self._log.stamp(line.producer),
            id=f"{self._log.run}-replayed-{next(self._numbers)}.{line.item}",
            turn=self._log.turn,
            cell=place[0],
            call=place[1],
            source="replayed",
            messages=None if line.message_spans is not None else line.messages,
            usage=records.TokenUsage(0, 0),
            prompt_token_ids=None,
            token_ids=line.token_ids if keeps_ids else None,
            logprobs=line.logprobs if keeps_ids else None,
            queue_s=0.0,
            compute_s=0.0,
            total_s=0.0,
        )
