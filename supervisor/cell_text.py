"""A cell's outcome: as the supervisor model sees it, and as the log has it."""

from typing import Any, Protocol

from distill.supervisor.history import told
from distill.supervisor.text import clip
from distill.traces import records

NOT_YET = "No new jail could be started yet: if more is lost than this cell, the next one says so."
VARIABLES_SHOWN = 30
TRACEBACK_CHARS = 2000


class Cells(Protocol):
    """What the turn loop needs of a REPL (``distill.repl.REPL`` and its subclasses)."""

    def execute(self, code: str) -> Any:
        """Run one cell; returns an ExecResult."""


def render(result: Any) -> str:
    """A cell's outcome as the supervisor model sees it."""
    parts = [f"[cell {result.cell}, {result.elapsed:.1f} s]"]
    if result.stdout:
        parts.append(result.stdout.rstrip("\n"))
    if result.stderr:
        parts.append(f"stderr:\n{result.stderr.rstrip()}")
    if result.error is not None:
        parts.append(clip(result.error.traceback.rstrip(), TRACEBACK_CHARS))
    if result.lost is not None:
        parts.append(f"The cell was killed: {result.lost}.")
        parts.append(told(result.restored) if result.restored is not None else NOT_YET)
    if len(parts) == 1:
        parts.append("(no output)")
    if result.variables:
        parts.append(f"Names: {describe_variables(result.variables)}")
    return "\n".join(parts)


def describe_variables(variables: Any, shown: int = VARIABLES_SHOWN) -> str:
    """Names with their types and sizes, the first ``shown`` of them; modules left out."""
    values = [(name, v) for name, v in variables.items() if v.type != "module"]
    described = [
        f"{name}: {v.type}" + (f"[{v.size}]" if v.size is not None else "")
        for name, v in values[:shown]
    ]
    more = len(values) - shown
    return ", ".join(described) + (f" and {more} more" if more > 0 else "")


def cell_fields(turn: int, code: str, result: Any) -> dict[str, Any]:
    """The fields of a cell's record."""
    error = result.error
    if result.lost is not None:
        status = "final" if result.is_final else "lost"
    else:
        status = "final" if result.is_final else "ok" if error is None else "error"
    return {
        "turn": turn,
        "cell": result.cell,
        "code": code,
        "status": status,
        "stdout": result.full_stdout,
        "stderr": result.full_stderr,
        "elapsed_s": result.elapsed,
        "cpu_s": result.cpu_s,
        "error": error
        and records.CellFailure(error.name, error.message, error.traceback, error.line),
        "lost": result.lost,
        "variables": tuple(
            records.Variable(name, v.type, v.repr, v.size) for name, v in result.variables.items()
        ),
        "dropped_bytes": result.dropped_bytes,
        "interrupted": result.interrupted,
        "live_threads": result.live_threads,
        "blocked": result.blocked,
        "spent_s": result.spent_s,
        "restored": result.restored,
    }
