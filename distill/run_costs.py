"""What a run has used, as its end says: itself, and with its sub-runs."""

from typing import Any

from distill.traces.records import RunEnd


def cost_of(end: RunEnd) -> dict[str, Any]:
    """What a run has used with its sub-runs, by the names of a ``TaskResult``."""
    used = end.tree or end
    return {
        "iterations": end.iterations,
        "supervisor_usage": used.supervisor_usage,
        "worker_usage": used.worker_usage,
        "worker_calls": used.worker_calls,
        "worker_failures": used.worker_failures,
        "elapsed_s": end.elapsed_s,
        "dollars": _own_dollars(end) if end.tree is None else end.tree.dollars,
        "ended_by": end.ended_by,
    }


def _own_dollars(end: RunEnd) -> float | None:
    if end.supervisor_dollars is None or end.worker_dollars is None:
        return None
    return end.supervisor_dollars + end.worker_dollars
