"""How long a worker server's device worked for each request: shared equally by those in flight.

A worker server serves many requests at once, so that their times add up to many times the device's.
Here each instant in which anything is in flight is shared out equally among all that is: what the
requests of all runs took adds up to the time in which the device had something to do.

    one alone      ████████             2 s and
    and another        ████████         2 s, of which they share 1: 1.5 s each, 3 s in all
"""


class DeviceClock:
    """One worker server's. A mark is what ``enter`` returned when a request came."""

    __slots__ = ("_count", "_each_s", "_since_s")

    def __init__(self) -> None:
        self._count = 0
        self._each_s = 0.0
        """What one that was in flight all the time would have had by ``_since_s``."""
        self._since_s = 0.0

    def enter(self, now_s: float) -> float:
        """A request is in flight from now on; its mark."""
        self._advance(now_s)
        self._count += 1
        return self._each_s

    def leave(self, mark_s: float, now_s: float) -> float:
        """It is no longer; the seconds that were its share."""
        self._advance(now_s)
        self._count -= 1
        return self._each_s - mark_s

    def _advance(self, now_s: float) -> None:
        if self._count:
            self._each_s += (now_s - self._since_s) / self._count
        self._since_s = now_s
