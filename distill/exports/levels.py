"""What of a run an expression or a format is about: all of it, or each turn, cell or call."""

from typing import Literal, get_args

Level = Literal["run", "turn", "cell", "call"]
LEVELS: tuple[Level, ...] = get_args(Level)
"""From the whole to its parts."""
OF_RUNS: tuple[Level, ...] = ("run",)
OF_TURNS: tuple[Level, ...] = ("run", "turn")
OF_CALLS = LEVELS
