"""What a format works on: the chosen runs, and their worker calls one by one."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from distill.exports.graded import GradedRun
from distill.exports.reading import Source
from distill.exports.where import Condition
from distill.traces import records


@dataclass(slots=True)
class Material:
    """``runs`` are what was chosen, sub-runs too, in the order of their logs; their ``run.calls``
    are empty: ``calls()`` reads them.

    ``seed`` decides what is left to chance. ``rows`` and ``not_from`` are options of formats that
    have them: how many rows are wanted, texts of which no row may come.
    """

    sources: Sequence[Source]
    runs: list[GradedRun]
    conditions: Sequence[Condition] = ()
    seed: int = 0
    rows: int | None = None
    not_from: Sequence[str] = ()
    dropped: Counter[str] = field(default_factory=Counter)
    """Calls and turns that ``--where`` left out."""
    _is_read: bool = False

    def groups(self) -> dict[str, list[GradedRun]]:
        """The runs by group: the same question about the same text."""
        found: dict[str, list[GradedRun]] = {}
        for graded in self.runs:
            found.setdefault(graded.group, []).append(graded)
        return found

    def calls(self) -> Iterator[tuple[GradedRun, records.Call]]:
        """The worker calls of the runs that ``--where`` lets pass, each with its run.

        Read anew at each call, in the order of the logs.
        """
        deeper = [each for each in self.conditions if each.level != "run"]
        runs = {(each.run.folder, each.run.id): each for each in self.runs}
        joins: dict[str, _Joins] = {}
        for source in self.sources:
            for call in source.calls():
                graded = runs.get((source.folder, call.run or ""))
                if graded is None:
                    continue
                if deeper:
                    join = joins.get(graded.run.id) or joins.setdefault(
                        graded.run.id, _Joins(graded)
                    )
                    if not self._passes(join.env(call), deeper):
                        continue
                yield graded, call
        self._is_read = True

    def passes(self, graded: GradedRun, turn: records.Turn) -> bool:
        """Whether ``--where`` lets a turn pass; call it once for each."""
        deeper = [each for each in self.conditions if each.level == "turn"]
        return self._passes({"run": graded, "turn": turn}, deeper)

    def _passes(self, env: dict[str, Any], conditions: Sequence[Condition]) -> bool:
        failed = next((each for each in conditions if not each(env)), None)
        if failed is not None and not self._is_read:
            self.dropped[f"--where {failed.text}"] += 1
        return failed is None


class _Joins:
    """Of one run: from a call to its cell and its turn."""

    def __init__(self, graded: GradedRun) -> None:
        self._graded = graded
        self._turns = {turn.turn: turn for turn in graded.run.turns}
        self._cells = {cell.cell: cell for cell in graded.run.cells}

    def env(self, call: records.Call) -> dict[str, Any]:
        """What the names of an expression stand for; of an open cell there is no record."""
        return {
            "run": self._graded,
            "turn": self._turns.get(call.turn),
            "cell": self._cells.get(call.cell),
            "call": call,
        }
