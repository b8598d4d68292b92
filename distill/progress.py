"""How far a run is."""

from dataclasses import dataclass


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
