"""Accounts of what runs use. No I/O; any thread may call.

::

    Account (the run) ◄── child (a sub-run) ◄── child …
       │
       ├─ reserve(most)  before anything is sent: in every account up to the root, or in none
       └─ settle(used)   afterwards: what it used in place of what it might have used

What is reserved counts as used until it is settled, so that two who reserve at once can't overspend
together. A tree of accounts has one lock.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Literal

from distill.budget import KINDS, NOTHING, ROUNDING, Budget, Kind, Use, amount
from distill.errors import BudgetError


class Balance:
    """What is used and held of one budget. Not for several threads."""

    __slots__ = ("budget", "held", "is_priced", "used")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.used = self.held = NOTHING
        self.is_priced = True

    def left(self, kind: Kind) -> float:
        """What can still be held; below 0 where more was used than was held for it."""
        limit: float | None = getattr(self.budget, kind)
        return math.inf if limit is None else limit - self.used.of(kind) - self.held.of(kind)

    def check(self, more: Use) -> None:
        """Raise BudgetError where so much more can't be held."""
        for kind in KINDS:
            wanted, left = more.of(kind), self.left(kind)
            if wanted > 0 and left + ROUNDING < wanted:
                left = max(type(wanted)(0), left)
                raise BudgetError(
                    f"the budget of {amount(kind, getattr(self.budget, kind))} does not cover it: "
                    f"{amount(kind, left)} left, up to {amount(kind, wanted)} needed",
                    budget=kind,
                    left=left,
                )


class Account:
    """What one run has used and may use. What a child uses, its parent has used, too.

    ``deadline_s`` is when its wall time is up, by ``time.monotonic``: its own, its parent's or the
    one that is given, whichever comes first (infinite: never). ``spent_s`` of its own has passed
    already.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        parent: "Account | None" = None,
        *,
        spent_s: float = 0.0,
        deadline_s: float = math.inf,
    ) -> None:
        self.budget = budget if budget is not None else Budget()
        self._own = Balance(self.budget)
        self.path: tuple[Balance, ...] = (self._own, *(parent.path if parent is not None else ()))
        """Its own balance, and those that it draws on."""
        self.lock: threading.Lock = parent.lock if parent is not None else threading.Lock()
        """Whoever reads or changes balances holds it."""
        wall_s = self.budget.wall_s
        own_s = math.inf if wall_s is None else time.monotonic() + wall_s - spent_s
        above_s = math.inf if parent is None else parent.deadline_s
        self.deadline_s: float = min(own_s, above_s, deadline_s)
        self.limited: tuple[Kind, ...] = tuple(k for k in KINDS if self.limit(k) is not None)
        """The kinds that have a limit, here or further up."""

    def child(self, budget: Budget | None = None, *, deadline_s: float = math.inf) -> "Account":
        """An account that draws on this one; ``budget`` None: as much as there is."""
        return Account(budget, self, deadline_s=deadline_s)

    @property
    def used(self) -> Use:
        """What was settled and charged so far; what is only reserved is not in it."""
        with self.lock:
            return self._own.used

    def left(self, kind: Kind) -> float | None:
        """What can still be reserved of this kind, never below 0; None: there is no limit."""
        with self.lock:
            left = min(balance.left(kind) for balance in self.path)
        return None if left == math.inf else max(type(left)(0), left)

    @property
    def is_priced(self) -> bool:
        """Whether the dollars are all: nothing was used whose price nobody knows."""
        return self._own.is_priced

    def say_unpriced(self) -> None:
        """What is used has no known price, here and so further up."""
        with self.lock:
            for balance in self.path:
                balance.is_priced = False

    def limit(self, kind: Kind | Literal["wall_s"]) -> float | None:
        """The lowest limit of this kind, here or further up; None: there is none."""
        limits = [getattr(balance.budget, kind) for balance in self.path]
        return min((limit for limit in limits if limit is not None), default=None)

    def left_s(self) -> float | None:
        """Seconds until the deadline, never below 0; None: there is none."""
        if self.deadline_s == math.inf:
            return None
        return max(0.0, self.deadline_s - time.monotonic())

    def reserve(self, most: Use) -> "Reservation":
        """Put aside what something may use at most. Raises BudgetError: so much is not left."""
        reservation = Reservation(self._hold, self._change)
        reservation.resize(most)
        return reservation

    def charge(self, used: Use, below: "Account | None" = None) -> None:
        """Count what was used and not reserved: before this process, or nobody could know it.

        The account ``below`` which it is, and those further up, have counted it already.
        """
        path = self.path if below is None else self.path[: -len(below.path)]
        with self.lock:
            for balance in path:
                balance.used += used

    def charge_again(self, used: Use) -> BudgetError | None:
        """Count what was sent in vain, while as much stays reserved; why that is not covered."""
        try:
            self.reserve(used).settle(used)
        except BudgetError as why:
            self.charge(used)
            return why
        return None

    def _hold(self, more: Use) -> None:
        with self.lock:
            for balance in self.path:
                balance.check(more)
            for balance in self.path:
                balance.held += more

    def _change(self, used: Use, held: Use) -> None:
        with self.lock:
            for balance in self.path:
                balance.used += used
                balance.held += held


class Reservation:
    """What one call, or one turn, may use at most. For one thread at a time."""

    __slots__ = ("_change", "_hold", "most")

    def __init__(self, hold: Callable[[Use], None], change: Callable[[Use, Use], None]) -> None:
        self._hold = hold
        self._change = change
        self.most = NOTHING

    def resize(self, most: Use) -> None:
        """Reserve this in place of what was. Raises BudgetError: then it is as it was."""
        self._hold(most - self.most)
        self.most = most

    def spend(self, used: Use, keep: Use = NOTHING) -> None:
        """Count what was used, and keep so much reserved, but no more than was."""
        kept = keep.at_most(self.most)
        self._change(used, kept - self.most)
        self.most = kept

    def settle(self, used: Use) -> None:
        """It has ended, and has used this: less than was reserved, or more."""
        self.spend(used)

    def release(self) -> None:
        """Nothing was sent."""
        self.spend(NOTHING)
