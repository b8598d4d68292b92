"""A recorded run that is done again: what its calls had got, and which of its cells were killed.

::

    cells ─► renumbered: a cell that was running at a cut counts as never begun
    answers "log":    every call gets what it had got in its cell; a killed cell is killed again
    answers "worker": workers are asked; another function's call gets what an equal one had got,
                      in whatever cell: after another answer the code may go another way
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from distill.supervisor.cell_text import cell_fields
from distill.supervisor.ledger import Answer, Ledger
from distill.supervisor.recorded import CUT_OFF, fill_ledger
from distill.traces import Run, records

Answers = Literal["log", "worker"]
COMPARED = ("code", "status", "stdout", "stderr", "lost", "variables")
"""Of a cell; beside them its exception, and how many calls it made."""


ADDRESS = re.compile(" at 0x[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class ReplayOf:
    """Which run is done again, and where its worker calls' answers come from."""

    folder: str
    run: str
    answers: Answers = "log"


def _plain(value: Any) -> str:
    """A value without addresses of memory, which are another jail's."""
    return ADDRESS.sub(" at 0x", repr(value))


class Recording:
    """The recorded run, as the session that does it again looks things up. On the loop."""

    def __init__(self, run: Run, answers: Answers, itemised: frozenset[str]) -> None:
        self.run = run
        self.answers = answers
        self._itemised = itemised
        self._cells = [cell for cell in run.cells if cell.lost != CUT_OFF]
        self._numbers = {cell.cell: place for place, cell in enumerate(self._cells, 1)}
        self._ledger = Ledger()
        numbers = self._numbers if answers == "log" else dict.fromkeys(self._numbers, 0)
        fill_ledger(self._ledger, run, numbers)
        self.on_killed: Callable[[int, int], None] = lambda _cell, _recorded: None
        """Called with the number of a cell that is killed again, and that of the recorded one."""
        self.compared = 0
        self.differing: list[int] = []

    @property
    def is_silent(self) -> bool:
        """Whether only the log answers."""
        return self.answers == "log"

    def refusal(self, cell: int, key: str) -> str | None:
        """Why this answer was refused; None: it was not."""
        answer = self._ledger.give(cell, key)
        return None if answer is None or answer.error is None else answer.error.detail

    def answer(self, cell: int, function: str, key: str) -> Answer | None:
        """What this call had got; None: the function is to be called.

        Raises LookupError where only the log may answer, and has no such call.
        """
        if self.is_silent:
            if (answer := self._ledger.give(cell, key)) is None:
                raise LookupError(f"the recorded run did not call {function} so")
            return answer
        return None if function in self._itemised else self._ledger.give(0, key)

    def killed(self, cell: int) -> records.Cell | None:
        """How the recorded cell was killed, if this one is to end as it did.

        One that was killed after its FINAL is not meant: it gets that far, and ends the same way.
        """
        recorded = self._recorded(cell)
        if not self.is_silent or recorded is None or recorded.status != "lost":
            return None
        self.on_killed(cell, recorded.cell)
        if recorded.restored is None:
            return recorded
        upto = self._numbers.get(recorded.restored.upto, 0)
        restored = msgspec.structs.replace(recorded.restored, upto=upto)
        return msgspec.structs.replace(recorded, restored=restored)

    def compare(self, code: str, result: Any) -> None:
        """Hold what came of a cell (an ExecResult) against what had come of it."""
        recorded = self._recorded(result.cell)
        self.compared += 1
        if recorded is None or not self._is_alike(recorded, cell_fields(0, code, result)):
            self.differing.append(result.cell)

    def _is_alike(self, recorded: records.Cell, found: dict[str, Any]) -> bool:
        if any(_plain(getattr(recorded, name)) != _plain(found[name]) for name in COMPARED):
            return False
        failures = [each and (each.name, each.message) for each in (recorded.error, found["error"])]
        killed = recorded.status == "lost"
        return _plain(failures[0]) == _plain(failures[1]) and (
            killed or not self._ledger.missing(found["cell"])
        )

    def _recorded(self, cell: int) -> records.Cell | None:
        return self._cells[cell - 1] if cell <= len(self._cells) else None
