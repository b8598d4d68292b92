"""Where a run's answer comes from, as far as what passed through shows it.

Found by the host in the log, never told by the jail::

    context ─► spans of prompts ─► coverage        instructions: the rest of the prompts
                     worker ─► answers ─► printed ─► final answer      (matches, no causes)
"""

from collections.abc import Iterator
from functools import cached_property

from distill.traces import coverage, flow, instructions
from distill.traces.reading import Run
from distill.traces.records import Call


class Provenance:
    """Of one run; each part is found when it is first asked for."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @cached_property
    def coverage(self) -> coverage.Coverage:
        """What workers have read of the run's text, those of its sub-runs on the same text
        included. Raises InputError where the text is not in the log folder.
        """
        spans = (span for call in _calls(self._run) for span in call.spans)
        return coverage.of(self._run.context(), spans)

    @cached_property
    def instructions(self) -> tuple[instructions.Instruction, ...]:
        """The distinct instructions of its own calls, the most used first."""
        return instructions.of(self._run.calls)

    @cached_property
    def flow(self) -> tuple[flow.Flow, ...]:
        """Where the answers of its own calls went, in the order of the log."""
        return flow.of(self._run)


def of(run: Run) -> Provenance:
    """The provenance of a run that was read by ``distill.traces.read``."""
    return Provenance(run)


def _calls(run: Run) -> Iterator[Call]:
    """Calls that were answered, of the run and of its sub-runs about the same text."""
    for call in run.calls:
        if call.response is not None:
            yield call
    for below in run.sub_runs:
        if _file(below) == _file(run):
            yield from _calls(below)


def _file(run: Run) -> str | None:
    return run.start.context.file if run.start is not None else None
