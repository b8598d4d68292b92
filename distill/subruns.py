"""The sub-runs of a run: a cell's ``supervisor(query)`` is a run of its own, in a fresh sandbox.

::

    run ── cell ── supervisor(query, context) ──► sub-run: its own turns, its own jail
     │                                              │
     └── the same workers, log folder and limits ───┘   and so on, as deep as max_depth allows

A sub-run ends with the cell that asked for it. What comes of it goes back to that cell: its failure
is an error there and never the end of the run that asked.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distill.errors import DistillError, SubRunError
from distill.models import ModelHandler
from distill.primitives import BudgetSpentError
from distill.question import Question
from distill.rollout import Rollout, run_name
from distill.sub_questions import AT_ONCE, SUB_RUNS_LIMIT, SubQuestion, sub_questions
from distill.supervisor.backends import Backend
from distill.supervisor.driver import Driver
from distill.supervisor.host_calls import CURRENT_CALL, HostCallRecord
from distill.supervisor.run_log import RunLog
from distill.supervisor.text import printable
from distill.totals import Totals
from distill.traces import records

NOT_BY_A_REPLAY = "a replay has no supervisor for sub-runs that were not in the recorded run"
CELL_ENDED = "the cell that asked for it has ended"


@dataclass(frozen=True, slots=True)
class Family:
    """What all sub-runs of one tree share. ``supervisor`` None: there is nobody to ask.

    ``levels`` has a gate for each level below the first run; a run waits only for those of the
    level below its own, so that none can wait for itself.
    """

    host: Driver
    supervisor: ModelHandler | None
    backend: Backend
    messages: Any
    levels: tuple[asyncio.Semaphore, ...]

    @classmethod
    def of_depth(cls, max_depth: int, **shared: Any) -> "Family":
        """One with so many levels."""
        return cls(levels=tuple(asyncio.Semaphore(AT_ONCE) for _ in range(max_depth)), **shared)

    def sub_runs(self, level: int = 0) -> Callable[[Rollout], "SubRuns"] | None:
        """What a run of this level makes its sub-runs with; None: it may have none."""
        if level == len(self.levels):
            return None
        return lambda rollout: SubRuns(self, rollout, level)


class SubRuns:
    """Those of one run. All but ``ask`` is called on the driver's loop."""

    def __init__(self, family: Family, parent: Rollout, level: int) -> None:
        self._family = family
        self._parent = parent
        self._level = level
        self._started = 0
        self._running: list[Rollout] = []
        self._ended = Totals()
        self._tasks: dict[asyncio.Task[Any], int] = {}
        """And the cells that they are for."""

    def ask(
        self, query: Any, context: Any = None, *, contexts: Any = None, max_iterations: Any = None
    ) -> Any:
        """The host's ``supervisor``, in a thread; its arguments are hostile."""
        asked = sub_questions(query, context, contexts, max_iterations)
        caller = CURRENT_CALL.get()
        work = self._answers(asked, caller)
        answers = asyncio.run_coroutine_threadsafe(work, self._family.host.loop).result()
        return answers if isinstance(query, list | tuple) else answers[0]

    @property
    def totals(self) -> Totals:
        """What they have used so far, and theirs."""
        return sum((each.totals for each in self._running), self._ended)

    @property
    def running(self) -> int:
        """How many are under way, at any depth."""
        return sum(1 + each.sub_runs_running for each in self._running)

    def taken_up(self, totals: Totals) -> None:
        """Count those that an earlier process of the same run has had."""
        self._started += totals.sub_runs
        self._ended += totals

    def end_cell(self, cell: int) -> None:
        """A cell has ended, and nobody waits for those that it asked for."""
        for task, its_cell in self._tasks.items():
            if its_cell == cell:
                task.cancel()

    async def close(self) -> None:
        """End them all; they have written their ends when this returns."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answers(self, asked: Sequence[SubQuestion], caller: HostCallRecord) -> list[Any]:
        """Their answers, in order. Raises SubRunError unless there are all."""
        if self._started + len(asked) > SUB_RUNS_LIMIT:
            raise BudgetSpentError(f"a run may start {SUB_RUNS_LIMIT} sub-runs, and not more")
        self._started += len(asked)
        tasks = [
            self._family.host.loop.create_task(self._answer(question, caller, item))
            for item, question in enumerate(asked)
        ]
        for task in tasks:
            self._tasks[task] = caller.cell
            task.add_done_callback(self._tasks.pop)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        errors = {
            item: printable(_reason(outcome))
            for item, outcome in enumerate(outcomes)
            if isinstance(outcome, BaseException)
        }
        if not errors:
            return outcomes
        first = min(errors)
        if len(asked) == 1:
            raise SubRunError(errors[first])
        answers = [None if item in errors else answer for item, answer in enumerate(outcomes)]
        told = f"{len(errors)} of {len(asked)} sub-runs failed; item {first}: {errors[first]}"
        raise SubRunError(told, answers, errors)

    async def _answer(self, asked: SubQuestion, caller: HostCallRecord, item: int) -> Any:
        async with self._family.levels[self._level]:
            return await self._run(
                asked,
                records.ParentCall(self._parent.run, caller.cell, caller.call, item, caller.key),
            )

    async def _run(self, asked: SubQuestion, place: records.ParentCall) -> Any:
        family, parent = self._family, self._parent
        if family.supervisor is None:
            raise SubRunError(NOT_BY_A_REPLAY)
        question = Question(asked.query, asked.context)
        if asked.context is None:
            question = replace(question, context=parent.question.context)
        turns = parent.options.max_iterations
        options = replace(
            parent.options,
            max_iterations=min(turns, asked.max_iterations or turns),
            sources=() if asked.context is not None else parent.options.sources,
            on_progress=lambda _: parent.tell(),
        )
        log = RunLog(parent.journal, run_name())
        child = Rollout(
            family.host, log, question, options, family.sub_runs(self._level + 1), place
        )
        await child.prepare(family.supervisor, family.backend)
        self._running.append(child)
        try:
            result = await child.ask(None, parent.worker_ctx_k, family.messages)
        finally:
            self._running.remove(child)
            self._ended += child.totals + Totals(sub_runs=1)
            parent.learn_from(child)
        if result.status == "unanswered":
            raise SubRunError(f"it ended without an answer, after {result.iterations} turns")
        return result.answer


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return CELL_ENDED
    return str(error) if isinstance(error, DistillError) else f"{type(error).__name__}: {error}"
