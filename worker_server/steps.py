"""What the engine has done so far, for heartbeats: counters, and the age of the last step."""

import contextlib
import threading
import time
from collections.abc import Iterator


class StepClock:
    """Counts requests, steps and tokens; read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_step = time.monotonic()
        self._in_flight = 0
        self.prompt_tokens = 0
        """Tokens of prompts whose prefill ended, cached ones included."""
        self.cached_tokens = 0
        """Of those, the ones that the prefix cache had."""
        self.completion_tokens = 0
        self.waiting = 0
        """Requests that the engine has and has not begun, at its last step."""
        self.cache_usage = 0.0
        """The share of the KV cache that was taken, at its last step."""

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """Around one request's time in the engine."""
        with self._lock:
            if self._in_flight == 0:
                self._last_step = time.monotonic()  # idle until now: not a slow step
            self._in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1

    def step(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> None:
        """The engine finished one step."""
        with self._lock:
            self._last_step = time.monotonic()
            self.prompt_tokens += prompt_tokens
            self.cached_tokens += cached_tokens
            self.completion_tokens += completion_tokens

    def load(self, waiting: int, cache_usage: float) -> None:
        """What the engine's scheduler has at hand."""
        self.waiting, self.cache_usage = waiting, min(1.0, max(0.0, cache_usage))

    def age_s(self) -> float:
        """Seconds since the last step; 0 while there is nothing to do."""
        with self._lock:
            return time.monotonic() - self._last_step if self._in_flight else 0.0
