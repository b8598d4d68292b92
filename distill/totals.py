"""What a run has used so far, and with it its sub-runs."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from distill.models import Usage
from distill.traces import Run


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over runs: ``sent`` worker calls were asked of a worker, ``cached`` the cache knew."""

    sub_runs: int = 0
    supervisor: Usage = field(default_factory=Usage)
    worker: Usage = field(default_factory=Usage)
    asked: int = 0
    done: int = 0
    failed: int = 0
    sent: int = 0
    cached: int = 0

    @property
    def tokens(self) -> int:
        """In and out, of both models."""
        used = self.supervisor + self.worker
        return used.input_tokens + used.output_tokens

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            self.sub_runs + other.sub_runs,
            self.supervisor + other.supervisor,
            self.worker + other.worker,
            self.asked + other.asked,
            self.done + other.done,
            self.failed + other.failed,
            self.sent + other.sent,
            self.cached + other.cached,
        )


def totals_of(runs: Iterable[Run]) -> Totals:
    """What the log says that sub-runs have used, with their own."""
    return sum((own_totals(run) + totals_of(run.sub_runs) for run in runs), Totals())


def own_totals(run: Run) -> Totals:
    """What the log says that a sub-run has used itself."""
    supervisor, worker = Usage(), Usage()
    for turn in run.turns:
        supervisor += Usage(*msgspec.structs.astuple(turn.usage))
    paid = [call for call in run.calls if call.source != "reused"]
    for call in paid:
        if call.response is not None:
            worker += Usage(*msgspec.structs.astuple(call.usage))
    failed = sum(call.response is None for call in paid)
    cached = sum(call.source == "cached" for call in paid)
    done = len(run.calls)
    return Totals(1, supervisor, worker, done, done, failed, len(paid) - cached, cached)
