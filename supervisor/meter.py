"""What a worker has done: its heartbeats' counters over all its lives, and its speed of late."""

from collections import deque
from dataclasses import dataclass, fields

from distill.protocol import worker_link as wire

WINDOW_S = 10.0
"""Tokens a second are of this long, or of a younger worker's life."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of prompts (the cached ones included) and completions, and requests that failed."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    failures: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Counts)))

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(Counts)))


class Meter:
    """One worker's. ``waiting`` and ``cache_usage`` are its last heartbeat's."""

    def __init__(self) -> None:
        self._before = Counts()
        """Of the lives that have ended."""
        self._now = Counts()
        self._samples: deque[tuple[float, Counts]] = deque()
        self.waiting = 0
        self.cache_usage = 0.0
        self.restarts = 0
        self.last_fault = ""
        """Why it was started again, or was given up; "" if it never was."""

    def note(self, beat: wire.Heartbeat, now_s: float) -> None:
        """A heartbeat came."""
        self._now = Counts(
            beat.prompt_tokens, beat.cached_tokens, beat.completion_tokens, beat.failures
        )
        self.waiting, self.cache_usage = beat.waiting, beat.cache_usage
        self._samples.append((now_s, self._now))
        while now_s - self._samples[0][0] > WINDOW_S and len(self._samples) > 2:
            self._samples.popleft()

    def ended(self) -> None:
        """Its process has ended; another may take its place, and count from 0."""
        self._before, self._now = self.total, Counts()
        self._samples.clear()
        self.waiting, self.cache_usage = 0, 0.0

    def restarted(self, why: str) -> None:
        """Another takes its place."""
        self.restarts += 1
        self.last_fault = why

    @property
    def total(self) -> Counts:
        """Since the worker was first started."""
        return self._before + self._now

    @property
    def recent(self) -> tuple[Counts, float]:
        """What it did lately, and in how many seconds (0: nothing is known yet)."""
        if not self._samples:
            return Counts(), 0.0
        (since_s, first), (until_s, last) = self._samples[0], self._samples[-1]
        return last - first, until_s - since_s
