"""The finished cells of a session: what can be run again, and what is lost if not all can.

A cell can be run again if it ended by itself, with a value or an exception, and left nothing
running. What came after one that can't is lost with it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from distill.protocol.jail_link import CellError, Variable
from distill.traces.records import Restored

NAMES_TOLD = 20
"""Lost names that the supervisor is told; all of them are in the log."""


@dataclass(frozen=True, slots=True)
class FinishedCell:
    """A cell that ended by itself. ``blocked`` says why it can't be run again, if so."""

    number: int
    code: str
    variables: tuple[Variable, ...]
    printed: str
    """The hash of what it printed."""
    raised: str | None = None
    blocked: str | None = None

    @property
    def names(self) -> dict[str, str]:
        """The types of the namespace's names after it: these must come out again."""
        return {variable.name: variable.type for variable in self.variables}


def told(restored: Restored) -> str:
    """One line for the supervisor model: what is lost, and what stands."""
    changed = ""
    if restored.changed_names:
        changed = f" These hold other values now: {_listed(restored.changed_names)}."
    if restored.why is None:
        stands = "all names are as before it" if restored.cells else "no cell had finished before"
        return f"Only what it had done is lost: {stands}.{changed}"
    upto = restored.upto
    stands = f"Names are as after cell {upto}" if upto else "The REPL starts anew"
    return f"{stands}: {restored.why}. Lost: {_listed(restored.lost_names) or 'no names'}.{changed}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMES_TOLD
    return ", ".join(names[:NAMES_TOLD]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """What came of a cell. ``lost`` says how the jail died, ``restored`` what came back."""

    cell: int
    stdout: str
    stderr: str
    elapsed_s: float
    cpu_s: float
    error: CellError | None = None
    lost: str | None = None
    variables: tuple[Variable, ...] = ()
    dropped_bytes: int = 0
    interrupted: bool = False
    live_threads: int = 0
    open_calls: int = 0
    spent_s: float = 0.0
    restored: Restored | None = None

    @property
    def blocked(self) -> str | None:
        """Why this cell can't be run again, None if it can."""
        if self.interrupted:
            return "it was interrupted at its time limit"
        if self.live_threads:
            return "it left a thread running"
        if self.open_calls:
            return "it left a call open"
        return None


def printed_hash(stdout: str, stderr: str) -> str:
    """What ``FinishedCell.printed`` is made of."""
    data = f"{stdout}\0{stderr}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()[:16]


@dataclass(slots=True)
class Replay:
    """Finished cells run again: ``failed`` is the first that went otherwise, ``why`` how."""

    failed: int | None = None
    why: str | None = None
    died: bool = False
    """Its jail did, rather than that the cell went otherwise."""
    unknown_call: str | None = None
    variables: tuple[Variable, ...] = ()
    differing: list[int] = field(default_factory=list)

    def compare(self, cell: FinishedCell, outcome: CellOutcome, *, missing: int) -> None:
        """Hold what came of the cell against what had come of it."""
        reason = None
        again = finished(outcome, cell.code)
        if self.unknown_call is not None:
            reason = f"it called {self.unknown_call} as it had not before"
        elif outcome.lost is not None:
            self.died = True
            reason = f"its jail died: {outcome.lost}"
        elif missing:
            reason = f"it made {missing} calls fewer than before"
        elif again.names != cell.names or again.raised != cell.raised:
            reason = "it ended with other names, types or another exception"
        if reason is not None:
            self.failed, self.why = cell.number, f"cell {cell.number} went otherwise, {reason}"
            return
        self.variables = outcome.variables
        if again.printed != cell.printed:
            self.differing.append(cell.number)


def finished(outcome: CellOutcome, code: str) -> FinishedCell:
    """The cell as the history keeps it."""
    return FinishedCell(
        outcome.cell,
        code,
        outcome.variables,
        printed_hash(outcome.stdout, outcome.stderr),
        outcome.error.name if outcome.error is not None else None,
        outcome.blocked,
    )


def replayable(history: Sequence[FinishedCell]) -> tuple[list[FinishedCell], str | None]:
    """The cells up to the first that can't be run again, and why not that one."""
    for position, cell in enumerate(history):
        if cell.blocked is not None:
            why = f"cell {cell.number} can't be run again, {cell.blocked}"
            return list(history[:position]), why
    return list(history), None


def differing_names(had: Sequence[Variable], has: Sequence[Variable]) -> tuple[str, ...]:
    """Names that were there and are not, or whose type, size or short repr is another."""
    now = {variable.name: variable for variable in has}
    return tuple(variable.name for variable in had if now.get(variable.name) != variable)
