"""What ``--where`` may ask about: the columns of the logs' tables, and some of an export's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.exports.graded import GradedRun
from distill.exports.levels import Level
from distill.traces import Run, records
from distill.traces.joined import JoinedCall, JoinedCell, JoinedTurn, Joins
from distill.traces.rows import call_row, cell_row, run_row, turn_row

Values = Mapping[str, Any]
Env = Mapping[str, Values | None]
"""What the names of an expression stand for; None: the log lacks it, as the cell that was open."""


class RunValues:
    """The values of one run and of what is in it, each made when it is first asked for."""

    def __init__(self, graded: GradedRun) -> None:
        self._graded, self._joins = graded, Joins(graded.run)
        self._of_run: Env = {"run": _run_values(graded), "score": graded.scores}
        self._of_turns: dict[int, Values | None] = {}
        self._of_cells: dict[int, Values | None] = {}

    def of_run(self) -> Env:
        """For an expression about runs."""
        return self._of_run

    def of_turn(self, number: int) -> Env:
        """For one about turns."""
        return {**self._of_run, "turn": self._turn(number)}

    def of_call(self, call: records.Call) -> Env:
        """For one about calls, cells or turns."""
        return {
            **self._of_run,
            "turn": self._turn(call.turn),
            "cell": self._cell(call.cell),
            "call": _CallValues(self._graded, self._joins.call(call)),
        }

    def _turn(self, number: int) -> Values | None:
        if number not in self._of_turns:
            run, turn = self._joins.run, self._joins.turns.get(number)
            cells = tuple(cell for cell in run.cells if cell.turn == number)
            replies = (each for each in run.messages if turn and each.index == turn.reply_index)
            joined = JoinedTurn(turn, run, next(replies, None), cells) if turn else None
            self._of_turns[number] = turn_row(joined) if joined else None
        return self._of_turns[number]

    def _cell(self, number: int) -> Values | None:
        if number not in self._of_cells:
            run, cell = self._joins.run, self._joins.cells.get(number)
            batches = tuple(each for each in run.batches if each.cell == number)
            primitives = tuple(each for each in run.primitives if each.cell == number)
            turn = self._joins.turns.get(cell.turn) if cell else None
            joined = JoinedCell(cell, run, turn, batches, primitives) if cell else None
            self._of_cells[number] = cell_row(joined) if joined else None
        return self._of_cells[number]


def _run_values(graded: GradedRun) -> Values:
    return {
        **run_row(graded.run),
        "task": graded.root.run.start.label if graded.root.run.start else None,
        "score": graded.score,
        "is_sub_run": graded.root is not graded,
        "tokens": graded.tokens,
        "dollars": graded.dollars,
    }


class _CallValues(dict[str, Any]):
    """Those of a call; where its answer went is looked for when it is asked for."""

    LATER = ("in_answer",)

    def __init__(self, graded: GradedRun, joined: JoinedCall) -> None:
        super().__init__(
            call_row(joined),
            has_ids=joined.record.token_ids is not None,
            has_logprobs=joined.record.logprobs is not None,
        )
        self._graded, self._record = graded, joined.record

    def __missing__(self, name: str) -> bool:
        if name not in self.LATER:
            raise KeyError(name)
        self[name] = found = self._graded.has_in_answer(self._record.response)
        return found


def _names() -> dict[Level, frozenset[str]]:
    """The names there are, read off records in which nothing is."""
    run, usage = Run("", Path()), records.TokenUsage(0, 0)
    stamp: Any = {"t": 0.0, "run": "", "producer": records.Producer("driver", "", 0)}
    turn = records.Turn(
        **stamp, turn=0, request_messages=0, reply_index=0, model="", usage=usage, elapsed_s=0.0,
        cells=0,
    )  # fmt: skip
    cell = records.Cell(
        **stamp, turn=0, cell=0, code="", status="ok", stdout="", stderr="", elapsed_s=0.0,
        cpu_s=0.0,
    )  # fmt: skip
    call = records.Call(
        **stamp, id="", turn=0, cell=0, call=0, item=0, function="", attempt=1, prompt="",
        response=None, finish_reason=None, usage=usage, sampling={}, model=records.Model(""),
    )  # fmt: skip
    return {
        "run": frozenset(_run_values(GradedRun(run))),
        "turn": frozenset(turn_row(JoinedTurn(turn, run, None, ()))),
        "cell": frozenset(cell_row(JoinedCell(cell, run, None, (), ()))),
        "call": frozenset(
            [
                *_CallValues(GradedRun(run), JoinedCall(call, run, None, None, None)),
                *_CallValues.LATER,
            ]
        ),
    }


NAMES = _names()
