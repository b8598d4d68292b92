"""How far a run is."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

LOG = logging.getLogger("distill")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: turns, worker calls, tokens of both models, seconds, dollars if known.

    Calls, tokens and dollars are also those of its sub-runs, of which ``sub_runs`` are under way.
    """

    run: str
    turn: int
    turns: int
    calls_done: int
    calls_total: int
    calls_failed: int
    tokens: int
    elapsed_s: float
    sub_runs: int = 0
    dollars: float | None = None
    note: str = ""
    """What the supervisor model is writing just now, in one line."""


def shielded(listener: Callable[[T], object] | None, name: str) -> Callable[[T], None] | None:
    """The caller's listener: what it raises is logged, the first time, and stops nothing."""
    if listener is None:
        return None
    has_raised = False

    def hear(told: T) -> None:
        nonlocal has_raised
        try:
            listener(told)
        except Exception:
            if not has_raised:
                LOG.exception(
                    "%s raised; the run goes on, and what else it raises is not told", name
                )
            has_raised = True

    return hear
