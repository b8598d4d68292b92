"""The stretches of a jail's life that are timed: a cell, and the pause between two.

Each says what was printed in it, what it used, and what is due.
"""

import time
from typing import Literal

from msgspec.structs import replace

from distill.protocol.jail_link import CellError, Done, Limits
from distill.protocol.sandbox_link import CellDone, JailLost
from distill.sandbox.clock import CellClock
from distill.sandbox.deadline import Deadline
from distill.sandbox.jail.limits import told
from distill.sandbox.transcript import Transcript
from distill.sandbox.verdict import Verdict

CLAIM_LIMIT = 1 << 53
"""Of an amount that the jail claims: sums with it stay integers for everybody's JSON."""

WORDS_CHARS = 64_000
"""Of the jail's own words, where ours follow: the link to the driver takes 64 Ki for both."""


class Cell:
    """One cell from RunCell to its end. ``spent_before_s`` is what the run's cells have used."""

    def __init__(self, number: int, pid: int, limits: Limits, spent_before_s: float) -> None:
        self.number = number
        self.clock = CellClock(pid)
        self.transcript = Transcript(limits.output_bytes)
        self._deadline = Deadline(self.clock, limits, spent_before_s)

    def due(self) -> Literal["INT"] | Verdict | None:
        """What must be done to the jail now."""
        if self._deadline.is_soft_due():
            return "INT"
        detail = self._deadline.hard_detail()
        return None if detail is None else Verdict("deadline", detail)

    def look_again_s(self) -> float:
        """Seconds until something may be due."""
        return self._deadline.look_again_s()

    def settles_in_s(self) -> float:
        """Until when an interrupt, sent as it was ending, could hit the next cell."""
        return self._deadline.settles_in_s()

    def done(self, jail: str, done: Done) -> CellDone:
        """What the driver hears of its end: our clock and transcript, the jail's own words."""
        self.transcript.drop(min(done.dropped_bytes, CLAIM_LIMIT))
        return CellDone(
            jail=jail,
            cell=self.number,
            stdout=self.transcript.stdout,
            stderr=self.transcript.stderr,
            error=self._explained(done.error),
            variables=done.variables,
            elapsed_s=self.clock.elapsed_s,
            cpu_s=self.clock.cpu_s,
            dropped_bytes=self.transcript.dropped_bytes,
            interrupted=self._deadline.interrupted,
            live_threads=min(done.live_threads, CLAIM_LIMIT),
            spent_s=self.clock.spent_s,
        )

    def _explained(self, error: CellError | None) -> CellError | None:
        """An interrupt's error with the limit that was hit: the jail does not know which."""
        if error is None or error.name != "KeyboardInterrupt" or not self._deadline.interrupted:
            return error
        limit = self._deadline.limit_told()
        return replace(
            error,
            message=f"{error.message[:WORDS_CHARS]} {limit}",
            traceback=f"{error.traceback[:WORDS_CHARS]}{limit}\n",
        )

    def lost(self, message: JailLost) -> JailLost:
        """The same message, with what this cell had printed and used when its jail died."""
        return replace(
            message,
            cell=self.number,
            stdout=self.transcript.stdout,
            stderr=self.transcript.stderr,
            elapsed_s=self.clock.elapsed_s,
            cpu_s=self.clock.cpu_s,
            spent_s=self.clock.spent_s,
        )


class Pause:
    """The time between two cells. Only CPU counts: what threads that were left behind burn."""

    def __init__(self, pid: int, limits: Limits, settles_in_s: float = 0.0) -> None:
        self.clock = CellClock(pid)
        self.transcript = Transcript(limits.output_bytes)
        """Shown to nobody; a flood is a flood."""
        self._limit_s = limits.cell_s
        self._settled_s = time.monotonic() + settles_in_s

    def due(self) -> Verdict | None:
        """What must be done to the jail now."""
        if self.clock.cpu_s <= self._limit_s:
            return None
        detail = f"threads left behind used {self.clock.cpu_s:.1f} s of CPU between cells"
        return Verdict("deadline", f"{detail} {told('cell_s', self._limit_s)}")

    def look_again_s(self) -> float:
        """Seconds until something may be due."""
        return 1.0

    def settles_in_s(self) -> float:
        """Until when an interrupt of the last cell could hit the next one."""
        return max(0.0, self._settled_s - time.monotonic())
