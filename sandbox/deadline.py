"""When a cell is interrupted, and when it is killed: its own limit, or what the run has left."""

import time

from distill.protocol.jail_link import Limits
from distill.sandbox.clock import CellClock
from distill.sandbox.jail.limits import told

LOOK_S = (0.005, 0.25)
"""The shortest and the longest time between two looks at a clock; CPU time has no alarm."""
SETTLE_S = 0.1
"""An interrupt has reached the jail by then; no other cell may start before."""


class Deadline:
    """One cell's deadlines: soft at ``cell_s`` (or what ``run_s`` leaves), hard ``grace_s`` on."""

    def __init__(self, clock: CellClock, limits: Limits, run_spent_s: float) -> None:
        self._clock = clock
        self._limits = limits
        self._allowed_s = min(limits.cell_s, limits.run_s - run_spent_s)
        self._interrupted_at_s: float | None = None

    @property
    def interrupted(self) -> bool:
        """Whether the soft deadline has passed."""
        return self._interrupted_at_s is not None

    def settles_in_s(self) -> float:
        """Until when an interrupt, sent as the cell was ending, could hit the next one."""
        if self._interrupted_at_s is None:
            return 0.0
        return max(0.0, self._interrupted_at_s + SETTLE_S - time.monotonic())

    def is_soft_due(self) -> bool:
        """True once: now is the moment to interrupt."""
        if self.interrupted or self._clock.spent_s < self._allowed_s:
            return False
        self._interrupted_at_s = time.monotonic()
        return True

    def _over_s(self) -> float:
        """Time since the interrupt, by the wall or by the clock, whichever is more."""
        if self._interrupted_at_s is None:
            return 0.0
        since_s = time.monotonic() - self._interrupted_at_s
        return max(since_s, self._clock.spent_s - self._allowed_s)

    def hard_detail(self) -> str | None:
        """What to say of a cell that must be killed now, None if it may go on."""
        limits = self._limits
        if not self.interrupted or self._over_s() < limits.grace_s:
            return None
        return (
            f"the cell used {self._clock.spent_s:.1f} s, did not stop within {limits.grace_s:g} s "
            f"when it was interrupted, and was killed {self.limit_told()}"
        )

    def limit_told(self) -> str:
        """The limit that is the nearer: the cell's, or what is left of all cells' together."""
        if self._allowed_s < self._limits.cell_s:
            return told("run_s", self._limits.run_s)
        return told("cell_s", self._limits.cell_s)

    def look_again_s(self) -> float:
        """Seconds until something may be due."""
        due_s = self._allowed_s - self._clock.spent_s
        if self.interrupted:
            due_s = self._limits.grace_s - self._over_s()
        return min(max(due_s, LOOK_S[0]), LOOK_S[1])
