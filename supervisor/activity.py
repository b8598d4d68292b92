"""What a driver's runs do, counted for whoever watches."""

import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Activity:
    """Runs and the calls of their cells; belongs to the driver's loop."""

    since_s: float = field(default_factory=time.monotonic)
    runs: int = 0
    runs_total: int = 0
    host_calls: Counter[str] = field(default_factory=Counter)

    def begin(self) -> None:
        """A run begins."""
        self.runs += 1
        self.runs_total += 1

    def end(self) -> None:
        """A run has ended."""
        self.runs -= 1
