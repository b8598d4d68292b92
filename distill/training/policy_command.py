"""``distill train rl`` and ``opd``, once their arguments are read."""

from typing import Any

from distill.training.command import run
from distill.training.method import Method
from distill.training.methods import taken_from


def rl(runs: tuple[str, ...], **options: Any) -> int:
    """Reinforce what earned more than its group; the exit code."""
    return _run(runs, taken_from("rl", options), options)


def opd(runs: tuple[str, ...], **options: Any) -> int:
    """Learn from a teacher; the exit code."""
    return _run(runs, taken_from("opd", options), options)


def _run(runs: tuple[str, ...], method: Method, options: dict[str, Any]) -> int:
    return run(runs, method.formats, method, options)
