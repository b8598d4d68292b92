"""Functions of this side that cells may call: how often in a run, and whether data can leave.

A document can carry instructions, and a jail is no help against ``search(url)``: a function
that can send data out is marked, shown and logged as such. One that is not marked is taken
to be able to.
"""

import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from distill.errors import InputError

Function = TypeVar("Function", bound=Callable[..., Any])

BUDGET = 1000
"""Calls a run, of a primitive for which nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a primitive is called. ``egress`` None: nobody has said."""

    budget: int = BUDGET
    egress: bool | None = None

    def __str__(self) -> str:
        leaves = {
            True: "can send data out",
            False: "sends nothing out",
            None: "not marked, so it may send data out",
        }[self.egress]
        return f"at most {self.budget:,} call{'' if self.budget == 1 else 's'}, {leaves}"


class BudgetSpentError(Exception):
    """A primitive was called more often than its budget allows; a cell sees a LimitError."""


@overload
def primitive(function: Function, /) -> Function: ...
@overload
def primitive(
    *, budget: int = BUDGET, egress: bool | None = None
) -> Callable[[Function], Function]: ...
def primitive(
    function: Callable[..., Any] | None = None,
    /,
    *,
    budget: int = BUDGET,
    egress: bool | None = None,
) -> Any:
    """Mark a function as a primitive: ``budget`` calls a run, ``egress`` if data can leave by it.

    A decorator, or a wrapper for a function that is there already:
    ``primitive(budget=50, egress=False)(index.lookup)``. Raises InputError for a budget
    below 1.
    """
    if function is not None:
        return primitive()(function)
    if not _is_count(budget):
        raise InputError(f"a primitive's budget is a number of calls from 1 on, not {budget!r}")

    def mark(marked: Callable[..., Any]) -> Callable[..., Any]:
        # A function of our own: a method or a builtin holds no attributes, and is not ours.
        @functools.wraps(marked)
        def called(*args: Any, **kwargs: Any) -> Any:
            return marked(*args, **kwargs)

        called.distill_terms = Terms(budget, egress)  # type: ignore[attr-defined]
        return called

    return mark


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def terms_of(function: Callable[..., Any]) -> Terms:
    """A function's terms; the defaults where it is not marked."""
    terms = getattr(function, "distill_terms", None)
    return terms if isinstance(terms, Terms) else Terms()


def is_marked(function: Callable[..., Any]) -> bool:
    """Whether it went through ``primitive``."""
    return isinstance(getattr(function, "distill_terms", None), Terms)


class Budgets:
    """What is left of the budgets of one run's primitives. Any thread may ask."""

    def __init__(self, terms: Mapping[str, Terms]) -> None:
        self._terms = dict(terms)
        self._spent = dict.fromkeys(terms, 0)
        self._lock = threading.Lock()

    def spend(self, name: str) -> None:
        """Count a call that is about to be made. Raises BudgetSpentError."""
        with self._lock:
            if name not in self._terms:
                return
            budget = self._terms[name].budget
            if self._spent[name] >= budget:
                calls = "1 call" if budget == 1 else f"{budget:,} calls"
                raise BudgetSpentError(f"the budget of {name}() is used up: {calls} a run")
            self._spent[name] += 1

    def charge(self, name: str, calls: int) -> None:
        """Count calls that an earlier process of the same run has made."""
        with self._lock:
            if name in self._spent:
                self._spent[name] += calls
