"""What an endpoint may be asked: requests and tokens a minute, and when not at all.

There is one limiter an endpoint, key and model in the process (``shared``), so all runs keep to
the limits together, as supervisors and as workers. A call takes a ticket, reserves its tokens
before each try and settles them after it::

    ticket ──► queue, by ticket ──► reserve ──► try ──► settle: tokens that were really used
                    ▲                                      │
                    └── a pause, or room in the window ◄───┘

First come, first served: a call that is tried again keeps its ticket, so it goes first.

No library does this for threads. pyrate-limiter and limits take weights, but give nothing back
when a reply used less than was reserved, can't be paused, and serve whoever polls first;
aiolimiter and adaptive-rate-limiter are for event loops; tenacity and stamina put each caller to
sleep by itself.
"""

import bisect
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from distill.caller import is_gone
from distill.errors import ModelError
from distill.rates import UNLIMITED, Rates

DOUBLING_S = 1.0
"""After a refusal, what may be open doubles in this time: refusals come sooner than replies."""


@dataclass(slots=True)
class Spent:
    """So much, at that time (monotonic). ``is_past`` once it has left the window."""

    at_s: float
    amount: float
    is_past: bool = False


class Window:
    """What was spent in the last seconds."""

    def __init__(self) -> None:
        self._entries: deque[Spent] = deque()
        self._total = 0.0

    def spend(self, amount: float, now_s: float) -> Spent:
        """Note it."""
        spent = Spent(now_s, amount)
        self._entries.append(spent)
        self._total += amount
        return spent

    def settle(self, spent: Spent, amount: float, now_s: float) -> None:
        """It was another amount: less is given back, more counts from now on."""
        if amount > spent.amount:
            self.spend(amount - spent.amount, now_s)
        elif not spent.is_past:
            self._total -= spent.amount - amount
            spent.amount = amount

    def wait_s(self, amount: float, limit: float, length_s: float, now_s: float) -> float:
        """How long until this much fits too; more than the limit goes when it is alone."""
        while self._entries and self._entries[0].at_s + length_s <= now_s:
            left = self._entries.popleft()
            self._total -= left.amount
            left.is_past = True
        over = self._total + min(amount, limit) - limit if limit < math.inf else 0.0
        wait_s = 0.0
        for spent in self._entries:
            if over <= 0:
                break
            over -= spent.amount
            wait_s = spent.at_s + length_s - now_s
        return wait_s


@dataclass(order=True, slots=True)
class _Place:
    """A call in the queue, and what ends its wait."""

    ticket: int
    turn: threading.Condition = field(compare=False)
    refusal: str = field(default="", compare=False)


class RateLimiter:
    """The limiter of one endpoint. Any thread may call it; who waits is woken in turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rates = UNLIMITED
        self._requests = Window()
        self._tokens = Window()
        self._queue: list[_Place] = []
        self._tickets = itertools.count(1)
        self._paused_until_s = 0.0
        self._open = 0
        self._open_limit: float = math.inf
        self._last_reply_s = -math.inf

    def limit(self, rates: Rates) -> None:
        """These limits hold from now on, for all; the last given are the endpoint's."""
        with self._lock:
            self._rates = self._rates.replaced(rates)
            self._wake_first()

    def ticket(self) -> int:
        """A place in the queue, for all tries of one call."""
        return next(self._tickets)

    def reserve(self, ticket: int, tokens: float) -> Spent:
        """Wait for this ticket's turn, and take it; ``settle`` must follow.

        Raises ModelError when nobody waits for the call any more, or its endpoint is given up.
        """
        place = _Place(ticket, threading.Condition(self._lock))
        with self._lock:
            bisect.insort(self._queue, place)
            try:
                while (wait_s := self._wait_s(place, tokens)) > 0:
                    # Who is not first is woken when he is, or when the endpoint is given up.
                    place.turn.wait(wait_s if wait_s < math.inf else None)
                self._open += 1
                now_s = time.monotonic()
                self._requests.spend(1, now_s)
                return self._tokens.spend(tokens, now_s)
            finally:
                self._queue.remove(place)
                self._wake_first()

    def _wait_s(self, place: _Place, tokens: float) -> float:
        if place.refusal:
            raise ModelError(place.refusal)
        if self._queue[0] is not place:
            return math.inf
        if is_gone():
            raise ModelError("nobody waits for the answer any more")
        now_s, rates = time.monotonic(), self._rates
        return max(
            self._paused_until_s - now_s,
            self._start_wait_s(now_s),
            self._requests.wait_s(1, rates.requests, rates.window_s, now_s),
            self._tokens.wait_s(tokens, rates.tokens, rates.window_s, now_s),
        )

    def _start_wait_s(self, now_s: float) -> float:
        """How long until one more may be open, unless one ends before."""
        doublings = max(0.0, (now_s - self._paused_until_s) // DOUBLING_S)
        if self._open < self._open_limit * 2 ** min(doublings, 60):
            return 0.0
        return self._paused_until_s + (doublings + 1) * DOUBLING_S - now_s

    def _wake_first(self) -> None:
        if self._queue:
            self._queue[0].turn.notify()

    def settle(self, reserved: Spent, tokens: float | None) -> None:
        """A try has ended, and used so many tokens; None: nobody knows, what was reserved."""
        with self._lock:
            self._open -= 1
            if tokens is not None:
                self._tokens.settle(reserved, tokens, time.monotonic())
            self._wake_first()

    def pause(self, wait_s: float) -> None:
        """Let nobody through for so long."""
        with self._lock:
            self._paused_until_s = max(self._paused_until_s, time.monotonic() + wait_s)

    def refused(self, wait_s: float) -> None:
        """The endpoint has had too much: pause, then begin with one request, and more by and by.

        Else all that wait would rush in when the pause ends, and most be refused again.
        """
        self.pause(wait_s)
        with self._lock:
            self._open_limit = 1

    def replied(self) -> None:
        """The endpoint has answered: one request more may be open."""
        with self._lock:
            self._last_reply_s = time.monotonic()
            self._open_limit += 1
            self._wake_first()

    def give_up(self, why: str, since_s: float, ticket: int) -> None:
        """A call ends after its last refusal, the first of which was at ``since_s``.

        If nobody has got a reply since then, its tries stand for all that wait with an earlier
        ticket than this one: they end with it. One by one they would take hours.
        """
        with self._lock:
            if self._last_reply_s < since_s:
                for place in self._queue:
                    if place.ticket < ticket:
                        place.refusal = why
                        place.turn.notify()


_limiters: dict[Hashable, RateLimiter] = {}
_limiters_lock = threading.Lock()


def shared(endpoint: Hashable) -> RateLimiter:
    """The limiter of this endpoint in this process.

    It is never dropped: what was used in the last minute counts for a later handler too.
    """
    with _limiters_lock:
        return _limiters.setdefault(endpoint, RateLimiter())
