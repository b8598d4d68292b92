"""The sub-runs of a run: a cell's ``supervisor(query)`` is a run of its own, in a fresh sandbox.

::

    run ── cell ── supervisor(query, context) ──► sub-run: its own turns, its own jail
     │                                              │
     └── the same workers, log folder and limits ───┘   and so on, as deep as max_depth allows

A sub-run ends with the cell that asked for it. What comes of it goes back to that cell: its failure
is an error there and never the end of the run that asked.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distill.answers import AnswerRules
from distill.budget import Budget
from distill.errors import BudgetError, DistillError, SubRunError
from distill.models import ModelHandler
from distill.primitives import BudgetSpentError
from distill.question import Question
from distill.rollout import Rollout, run_name
from distill.run_options import Options
from distill.run_records import tree_use
from distill.sub_questions import AT_ONCE, SUB_RUNS_LIMIT, SubQuestion, sub_questions
from distill.supervisor.backends import Backend
from distill.supervisor.driver import Driver
from distill.supervisor.host_calls import CURRENT_CALL, HostCallRecord
from distill.supervisor.run_log import RunLog
from distill.supervisor.text import printable
from distill.supervisor.turns import token_usage
from distill.totals import Totals, own_totals, totals_of
from distill.traces import Run, records

NOT_BY_A_REPLAY = "a replay has no supervisor for sub-runs that were not in the recorded run"
ANSWERED = ("final", "forced")
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
        self._left: list[Run] = []
        """Of calls that were open when the run was cut off: who asks again goes on with them."""
        self._tasks: dict[asyncio.Task[Any], int] = {}
        """And the cells that they are for."""
        self._stopped: BudgetError | None = None

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
    def supervisor(self) -> ModelHandler | None:
        """Who writes their code."""
        return self._family.supervisor

    @property
    def totals(self) -> Totals:
        """What they have used so far, and theirs."""
        return sum((each.totals for each in self._running), self._ended + totals_of(self._left))

    @property
    def running(self) -> int:
        """How many are under way, at any depth."""
        return sum(1 + each.sub_runs_running for each in self._running)

    def take_up(self, run: Run) -> None:
        """Go on with those of this run, which was cut off."""
        settled = {(call.cell, call.call) for call in run.primitives}
        for each in run.sub_runs:
            place = each.start.parent if each.start is not None else None
            if place is None or (place.cell, place.call) in settled:
                self._ended += totals_of([each])
            else:
                self._left.append(each)
        self._started = len(run.sub_runs)

    def stop(self, why: BudgetError) -> None:
        """End those under way, and refuse more; the run goes on without."""
        self._stopped = why
        for task in self._tasks:
            task.cancel()

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
        for run in _without_end(self._left):
            RunLog(self._parent.journal, run.id).write(records.RunEnd, **_cut_off(run))

    async def _answers(self, asked: Sequence[SubQuestion], caller: HostCallRecord) -> list[Any]:
        """Their answers, in order. Raises SubRunError unless there are all."""
        if self._started + len(asked) > SUB_RUNS_LIMIT:
            raise BudgetSpentError(f"a run may start {SUB_RUNS_LIMIT} sub-runs, and not more")
        if self._stopped is not None:
            raise BudgetSpentError(str(self._stopped))
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
            item: printable(self._reason(outcome))
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
            place = records.ParentCall(self._parent.run, caller.cell, caller.call, item, caller.key)
            before = self._before(place)
            if before is not None and before.end is not None and before.end.status in ANSWERED:
                self._ended += totals_of([before])
                return before.answer
            return await self._run(asked, place, before)

    def _before(self, place: records.ParentCall) -> Run | None:
        """The sub-run that an equal call had begun before the run was cut off, if there is one."""
        for run in self._left:
            parent = run.start.parent if run.start is not None else None
            same = parent is not None and (parent.key, parent.item) == (place.key, place.item)
            if same and run.messages:
                self._left.remove(run)
                return run
        return None

    async def _run(self, asked: SubQuestion, place: records.ParentCall, before: Run | None) -> Any:
        family, parent = self._family, self._parent
        if family.supervisor is None:
            raise SubRunError(NOT_BY_A_REPLAY)
        if before is None:
            log = RunLog(parent.journal, run_name())
        else:
            log = RunLog(parent.journal, before.id, len(before.messages))
        child = Rollout(
            family.host,
            log,
            self._question(asked),
            self._options(asked),
            family.sub_runs(self._level + 1),
            place,
        )
        try:
            return await self._answer_of(child, family.supervisor, before)
        finally:
            parent.journal.leave(log.run)

    async def _answer_of(self, child: Rollout, supervisor: ModelHandler, before: Run | None) -> Any:
        family, parent = self._family, self._parent
        child.draws_on = parent.account_below()
        await child.prepare(supervisor, family.backend, before)
        self._running.append(child)
        try:
            if before is None:
                result = await child.ask(None, parent.worker_ctx_k, family.messages)
            else:
                result = await child.go_on(before)
        finally:
            self._running.remove(child)
            self._ended += child.totals + Totals(sub_runs=1)
            parent.learn_from(child)
        if result.status == "unanswered":
            raise SubRunError(f"it ended without an answer, after {result.iterations} turns")
        return result.answer

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, asyncio.CancelledError):
            return CELL_ENDED if self._stopped is None else str(self._stopped)
        return str(error) if isinstance(error, DistillError) else f"{type(error).__name__}: {error}"

    def _question(self, asked: SubQuestion) -> Question:
        context = self._parent.question.context if asked.context is None else asked.context
        return Question(asked.query, context)

    def _options(self, asked: SubQuestion) -> Options:
        options = self._parent.options
        turns = options.max_iterations
        return replace(
            options,
            max_iterations=min(turns, asked.max_iterations or turns),
            sources=options.sources if asked.context is None else (),
            budget=Budget(),
            answer_rules=AnswerRules(),  # those are for the answer to the whole question
            on_progress=lambda _: self._parent.tell(),
            on_text=None,
        )


def _without_end(runs: Iterable[Run]) -> Iterator[Run]:
    """Those that were cut off, and theirs."""
    for run in runs:
        yield from _without_end(run.sub_runs)
        if run.end is None and run.start is not None:
            yield run


def _cut_off(run: Run) -> dict[str, Any]:
    """The end of a sub-run that nobody asked for again."""
    own, below = own_totals(run), totals_of(run.sub_runs)
    return {
        "status": "cancelled",
        "answer": None,
        "iterations": len(run.turns),
        "supervisor_usage": token_usage(own.supervisor),
        "worker_usage": token_usage(own.worker),
        "worker_calls": own.sent,
        "worker_failures": own.failed,
        "worker_cached": own.cached,
        # What it cost was known to the driver that died.
        "tree": tree_use(replace(own, sub_runs=0) + below, None) if below.sub_runs else None,
        "elapsed_s": 0.0,
        "error": "the driver died while it ran, and its cell did not ask for it again",
    }
