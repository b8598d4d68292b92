"""Calls from a jail's cell to functions of this side: who calls, what is logged, what fails."""

import contextvars
import math
from dataclasses import dataclass
from typing import Any

from distill.errors import WorkerBatchError, WorkerError
from distill.protocol.jail_link import CallError
from distill.supervisor.text import printable

CURRENT_CALL: contextvars.ContextVar[tuple[int, int]] = contextvars.ContextVar("CURRENT_CALL")
"""The (cell, call) on whose behalf a host function runs."""


@dataclass(slots=True)
class HostCallRecord:
    """One host function call, exact both ways, for the log."""

    cell: int
    call: int
    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    elapsed_s: float
    value: Any = None
    error: str | None = None


def call_error(error: Exception) -> CallError:
    if isinstance(error, WorkerBatchError):
        reasons = {index: printable(str(each)[:1000]) for index, each in error.errors.items()}
        return CallError(
            "WorkerBatchError", printable(str(error)[:4000]), tuple(error.answers), reasons
        )
    if isinstance(error, WorkerError):
        return CallError("WorkerError", printable(str(error)[:4000]))
    return CallError("PrimitiveError", printable(f"{type(error).__name__}: {error}"[:4000]))


def is_json(value: Any, depth: int = 0) -> bool:
    """Whether a value is None, bool, int, float, str, or lists and str-keyed dicts of such."""
    if depth > 100:
        return False
    if isinstance(value, dict):
        return all(isinstance(k, str) and is_json(v, depth + 1) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(is_json(item, depth + 1) for item in value)
    return (
        value is None
        or isinstance(value, str | bool | int)
        or (isinstance(value, float) and math.isfinite(value))
    )
