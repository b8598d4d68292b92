"""The tries of one call to an endpoint: when each begins, and when there are no more."""

import random
import time

from distill.caller import LOST_TRY
from distill.rate_limit import RateLimiter, Spent
from distill.retry_headers import Headers, asked_wait_s, exhausted_s, is_passing

RETRIES = 4
"""Tries after the first."""
RETRY_S = 900.0
"""No try begins later than this after the first one failed."""
WAIT_LIMIT_S = 120.0
"""An endpoint that asks to wait longer is not waited for."""
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 8.0


class Attempts:
    """The tries of one call. ``begin``, then ``replied`` or ``failed``, then ``end``, each time.

    A refusal (429, or 503 with a time to come again) makes all callers of the endpoint wait;
    other passing trouble only this one. ``tokens`` is what a try may use, ``waited_s`` how long
    the call waited for its turn and between tries.
    """

    def __init__(self, limiter: RateLimiter, tokens: int, retries: int = RETRIES) -> None:
        self.count = 0
        self.waited_s = 0.0
        self._limiter = limiter
        self._tokens = tokens
        self._retries = retries
        self._ticket = limiter.ticket()
        self._reserved: Spent | None = None
        self._used: int | None = None
        self._backoff_s = 0.0
        self._begun_s = self._failed_s = 0.0
        self._ticket_then = 0
        self._was_refused = False
        self._asked_s: float | None = None
        self._is_uncovered = False

    def begin(self) -> None:
        """Wait for the next try's turn. Raises ModelError, as ``RateLimiter.reserve`` does."""
        started_s = time.monotonic()
        try:
            time.sleep(self._backoff_s)
            self._reserved = self._limiter.reserve(self._ticket, self._tokens)
        finally:
            now_s = time.monotonic()
            self.waited_s += now_s - started_s
        self._used = None
        self._begun_s = self._begun_s or now_s
        self.count += 1

    def end(self) -> None:
        """The try is over, however it went: others may go."""
        if self._reserved is not None:
            self._limiter.settle(self._reserved, self._used)
            self._reserved = None

    def replied(self, tokens: int, headers: Headers) -> None:
        """A reply came that used so many tokens; 0: it does not say."""
        self._used = tokens or None
        self._limiter.replied()
        wait_s = exhausted_s(headers)
        if wait_s is not None and wait_s <= WAIT_LIMIT_S:
            self._limiter.pause(wait_s)

    def failed(self, status: int | None, headers: Headers) -> bool:
        """The try failed with this status (None: no reply came); whether there is another."""
        now_s = time.monotonic()
        if not self._failed_s:
            self._failed_s, self._ticket_then = now_s, self._limiter.ticket()
        self._was_refused, self._asked_s = False, None
        if status is not None and status < 500:
            self._used = 0  # it was turned away; of others nobody knows what they used
        if status is not None and not is_passing(status, headers):
            if status != 429:
                self._limiter.replied()
            return False
        self._asked_s = asked_wait_s(headers)
        wait_s = self._asked_s or self._next_backoff_s()
        self._was_refused = status == 429 or (status == 503 and self._asked_s is not None)
        if self._was_refused and wait_s <= WAIT_LIMIT_S:
            self._limiter.refused(wait_s)
        self._backoff_s = 0.0 if self._was_refused else wait_s
        if status is None and (lost := LOST_TRY.get()) is not None and not lost(self._tokens):
            self._is_uncovered = True
            return False  # whoever pays for it does not pay twice
        in_time = wait_s <= WAIT_LIMIT_S and now_s + wait_s <= self._failed_s + RETRY_S
        return in_time and self.count <= self._retries

    def _next_backoff_s(self) -> float:
        backoff_s = min(FIRST_BACKOFF_S * 2.0 ** (self.count - 1), LONGEST_BACKOFF_S)
        return backoff_s * random.uniform(0.75, 1.0)

    def give_up(self, why: str) -> None:
        """There are no more tries; if the endpoint refused them, others need not wait either."""
        if self._was_refused:
            self._limiter.give_up(why, self._failed_s, self._ticket_then)

    def told(self) -> str:
        """How often and how long it was tried, where once was not all; for an error."""
        parts = []
        if self.count > 1:
            parts.append(f"tried {self.count} times in {time.monotonic() - self._begun_s:.1f} s")
        if self._asked_s is not None and self._asked_s > WAIT_LIMIT_S:
            parts.append(f"it asks to wait {self._asked_s:,.0f} s")
        if self._is_uncovered:
            parts.append("not tried again: the budget of the run does not cover it")
        return f" ({'; '.join(parts)})" if parts else ""
