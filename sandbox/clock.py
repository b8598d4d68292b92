"""How much of its time a jail has used: max(CPU time, wall time with no host call open).

CPU never pauses: a cell can't compute for free behind an open call. Waiting for a worker does
not count.
"""

import time

CPU_CLOCK_OF_PROCESS = 2
"""Low bits of a clock id: the scheduler's clock, of a whole process (linux/posix-timers.h)."""


def cpu_seconds(pid: int) -> float | None:
    """CPU time that the process has used, all threads; None once it is gone. Needs no /proc."""
    try:
        return time.clock_gettime(~pid << 3 | CPU_CLOCK_OF_PROCESS)
    except OSError:
        return None


class CellClock:
    """The time of one cell, or of the pause between two; starts when made."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu_start = self._cpu_last = cpu_seconds(pid) or 0.0
        self._started = self._resumed = time.monotonic()
        self._waited_s = 0.0
        self._paused = False

    def pause(self) -> None:
        """A host call is open: wall time does not count."""
        if not self._paused:
            self._waited_s += time.monotonic() - self._resumed
            self._paused = True

    def resume(self) -> None:
        """No host call is open any more."""
        if self._paused:
            self._resumed = time.monotonic()
            self._paused = False

    @property
    def cpu_s(self) -> float:
        """CPU time since the start; the last known value once the process is gone."""
        self._cpu_last = cpu_seconds(self._pid) or self._cpu_last
        return max(0.0, self._cpu_last - self._cpu_start)

    @property
    def elapsed_s(self) -> float:
        """Wall time since the start, waiting included."""
        return time.monotonic() - self._started

    @property
    def spent_s(self) -> float:
        """What counts against the limit."""
        running = 0.0 if self._paused else time.monotonic() - self._resumed
        return max(self.cpu_s, self._waited_s + running)
