"""What a format works on: the chosen runs, and their worker calls one by one."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from distill.exports.compression import LENGTH_WEIGHT
from distill.exports.graded import GradedRun
from distill.exports.reading import Source
from distill.exports.values import Env, RunValues
from distill.exports.where import Condition
from distill.traces import records


@dataclass(slots=True)
class Material:
    """``runs`` are what was chosen, sub-runs too, in the order of their logs; their ``run.calls``
    are empty: ``calls()`` reads them.

    ``seed`` decides what is left to chance. ``rows``, ``not_from`` and ``length_weight`` are
    options of formats that have them: how many rows are wanted, texts of which no row may come,
    the share of a reward that length decides. Without ``shots``, prompts have lost
    the turns before their last one.
    """

    sources: Sequence[Source]
    runs: list[GradedRun]
    conditions: Sequence[Condition] = ()
    seed: int = 0
    rows: int | None = None
    not_from: Sequence[str] = ()
    length_weight: float = LENGTH_WEIGHT
    shots: bool = True
    dropped: Counter[str] = field(default_factory=Counter)
    """Calls and turns that no format gets to see, by reason."""
    _is_read: bool = False
    _of_runs: dict[str, RunValues] = field(default_factory=dict)

    def calls(self) -> Iterator[tuple[GradedRun, records.Call]]:
        """The worker calls of the runs that ``--where`` lets pass, each with its run.

        Read anew at each call, in the order of the logs.
        """
        deeper = [each for each in self.conditions if each.level != "run"]
        runs = {(each.run.folder, each.run.id): each for each in self.runs}
        for source in self.sources:
            for call in source.calls():
                graded = runs.get((source.folder, call.run or ""))
                if graded is None:
                    continue
                if not all({"role", "content"} <= each.keys() for each in call.messages or ()):
                    self._drop("a message lacks its role or content")
                elif not deeper or self._passes(self._values(graded).of_call(call), deeper):
                    yield graded, call
        self._is_read = True

    def passes(self, graded: GradedRun, turn: records.Turn) -> bool:
        """Whether ``--where`` lets a turn pass; call it once for each."""
        deeper = [each for each in self.conditions if each.level == "turn"]
        return not deeper or self._passes(self._values(graded).of_turn(turn.turn), deeper)

    def _values(self, graded: GradedRun) -> RunValues:
        if (values := self._of_runs.get(graded.run.id)) is None:
            values = self._of_runs[graded.run.id] = RunValues(graded)
        return values

    def _passes(self, env: Env, conditions: Sequence[Condition]) -> bool:
        failed = next((each for each in conditions if not each(env)), None)
        if failed is not None:
            self._drop(f"--where {failed.text}")
        return failed is None

    def _drop(self, reason: str) -> None:
        """Count it, the first time that the calls are read."""
        if not self._is_read:
            self.dropped[reason] += 1
