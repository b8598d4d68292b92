"""Attempts in lanes: what is left to do, each run to its result, and how far it is."""

import asyncio
import contextlib
import dataclasses
import hashlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from distill.asking import Attempt
from distill.budget import amount
from distill.errors import BudgetError, DistillError, InputError
from distill.evaluation_summary import Summary, summarised
from distill.grading import Grading
from distill.progress import Progress, shielded
from distill.standings import dollars_of
from distill.supervisor.journal import encode_context
from distill.task_results import ResultsFile
from distill.tasks import Task
from distill.texts import changed_since
from distill.traces.records import RunStart
from distill.traces.results import TaskResult
from distill.traces.tail import Begun, begun_runs

TELL_EVERY_S = 0.1
"""Runs move often."""


@dataclass(frozen=True, slots=True)
class EvaluationProgress:
    """How far an evaluation is: attempts, the mean score so far, tokens of both models, seconds.

    ``dollars`` are those of runs that have ended, None where a price is not known. ``left_s`` is an
    estimate, None before the first attempt has ended.
    """

    done: int
    total: int
    running: int
    failed: int
    accuracy: float | None
    tokens: int
    dollars: float | None
    elapsed_s: float
    left_s: float | None


@dataclass(slots=True)
class Tally:
    """Sums over the results there are: to go over thousands at each end would hold up the loop."""

    done: int = 0
    failed: int = 0
    scored: int = 0
    score: float = 0.0
    tokens: int = 0
    dollars: float | None = 0.0

    def add(self, result: TaskResult) -> None:
        """One more has come to its end."""
        self.done += 1
        self.failed += result.error is not None
        if isinstance(result.score, float):
            self.scored += 1
            self.score += result.score
        self.tokens += result.tokens
        cost = dollars_of([result])
        self.dollars = None if self.dollars is None or cost is None else self.dollars + cost


class Evaluator:
    """One evaluation while it lasts. All on the loop."""

    def __init__(
        self,
        tasks: list[Task],
        grading: Grading,
        file: ResultsFile,
        on_progress: Callable[[EvaluationProgress], None] | None,
        max_dollars: float | None = None,
    ) -> None:
        self._tasks = tasks
        self._grading = grading
        self._file = file
        self._on_progress = shielded(on_progress, "on_progress")
        self._queue: deque[Attempt] = deque()
        self._running: dict[tuple[str, int], Progress | None] = {}
        self._started_s = time.monotonic()
        self._told_s = 0.0
        self._tally = Tally()
        self._ended = 0
        """Attempts that have ended since."""
        self._max_dollars = max_dollars
        self._lanes: list[asyncio.Task[None]] = []
        self._stopped: DistillError | None = None
        """Why the lanes were ended early."""

    async def begin(self, *, retry_errors: bool) -> None:
        """Find what is left to do. Raises InputError where the results are of other tasks."""
        grading = self._grading
        self._file.check(self._tasks, grading.asked, grading.asker.supervisor)
        known = {
            key: result
            for key, result in self._file.results.items()
            if not (retry_errors and result.error is not None)
        }
        told = {result.run_id for result in known.values()}
        begun = await asyncio.to_thread(begun_runs, grading.log_dir)
        for task in self._tasks:
            runs = [run for run in begun.get(task.id, []) if run.id not in told]
            runs = await asyncio.to_thread(_of_this, task, runs) if runs else []
            for number in range(1, task.attempts + 1):
                if (result := known.get((task.id, number))) is not None:
                    if grading.is_outdated(task, result):
                        self._end(await grading.scored(task, result))
                    else:
                        self._tally.add(result)
                    continue
                run = runs.pop(0) if runs else None
                attempt = Attempt(task, number, run.id if run is not None else None)
                if run is not None and run.end is not None:  # its result was never written
                    self._end(await grading.recorded(attempt, run.end))
                else:
                    self._queue.append(attempt)

    async def run(self, concurrency: int) -> None:
        """Run them. Raises what the asker says if it is lost, BudgetError: the dollars are used up.

        What runs then is cut off, to be gone on with.
        """
        self._look_at_dollars()
        count = min(concurrency, len(self._queue)) if self._stopped is None else 0
        self._lanes = [asyncio.create_task(self._lane()) for _ in range(count)]
        self._tell(now=True)
        try:
            await asyncio.gather(*self._lanes)
        except asyncio.CancelledError:
            if self._stopped is None:
                raise
        finally:
            for lane in self._lanes:
                lane.cancel()
            await asyncio.gather(*self._lanes, return_exceptions=True)
        if self._stopped is not None:
            raise self._stopped

    def _look_at_dollars(self) -> None:
        """End the lanes where all runs together have cost as much as they may, or nobody knows."""
        limit, costs = self._max_dollars, [self._tally.dollars]
        costs += [each.dollars for each in self._running.values() if each is not None]
        spent = None if None in costs else sum(each or 0.0 for each in costs)
        is_over = not (self._queue or self._running)
        if limit is None or is_over or (spent is not None and spent < limit):
            return
        if spent is None:
            self._stopped = InputError(
                "the dollars of all tasks can't be limited: a model has no price (--prices)"
            )
        else:
            self._stopped = BudgetError(
                f"the {amount('dollars', limit)} for all tasks are used up "
                f"({amount('dollars', spent)}): raise --max-dollars-total to go on",
                budget="dollars",
            )
        for lane in self._lanes:
            lane.cancel()

    async def _lane(self) -> None:
        while self._queue:
            attempt = self._queue.popleft()
            self._running[attempt.key] = None
            try:
                result = await self._attempted(attempt)
            finally:
                del self._running[attempt.key]
            if result is None:
                self._queue.appendleft(dataclasses.replace(attempt, resumes=None))
                continue
            self._end(result)
            self._ended += 1
            self._look_at_dollars()
            self._tell(now=True)

    def _end(self, result: TaskResult) -> None:
        self._file.append(result)
        self._tally.add(result)

    async def _attempted(self, attempt: Attempt) -> TaskResult | None:
        """What came of it; None where the run that it was to go on with can't be gone on with."""
        asker, started_s = self._grading.asker, time.monotonic()
        try:
            run = await asker.ask(attempt, lambda progress: self._hear(attempt, progress))
        except Exception as error:
            if attempt.resumes is not None and isinstance(error, InputError):
                return None
            if (lost := asker.lost()) is not None:
                raise lost from error
            told = self._running[attempt.key]
            run_id = told.run if told is not None else attempt.resumes
            elapsed_s = time.monotonic() - started_s
            return await self._grading.failed(attempt, error, run_id, elapsed_s)
        return await self._grading.answered(attempt, run)

    # -- how far it is

    def _hear(self, attempt: Attempt, progress: Progress) -> None:
        if attempt.key in self._running:
            self._running[attempt.key] = progress
            self._look_at_dollars()
            self._tell()

    def results(self) -> list[TaskResult]:
        """Those there are, in the order of the tasks."""
        keys = [(task.id, n) for task in self._tasks for n in range(1, task.attempts + 1)]
        return [self._file.results[key] for key in keys if key in self._file.results]

    def summary(self) -> Summary:
        """Of those."""
        elapsed_s = time.monotonic() - self._started_s
        asker, scorer = self._grading.asker, self._grading.scorer.name
        models = (asker.supervisor, asker.worker)
        return summarised(self._tasks, self.results(), models, scorer, elapsed_s)

    def _tell(self, *, now: bool = False) -> None:
        since_s = time.monotonic() - self._told_s
        if self._on_progress is None or (since_s < TELL_EVERY_S and not now):
            return
        self._told_s = time.monotonic()
        tally = self._tally
        elapsed_s = time.monotonic() - self._started_s
        left = len(self._queue) + len(self._running)
        self._on_progress(
            EvaluationProgress(
                done=tally.done,
                total=tally.done + left,
                running=len(self._running),
                failed=tally.failed,
                accuracy=tally.score / tally.scored if tally.scored else None,
                tokens=tally.tokens + sum(each.tokens for each in self._running.values() if each),
                dollars=tally.dollars,
                elapsed_s=elapsed_s,
                left_s=elapsed_s / self._ended * left if self._ended else None,
            )
        )


def _of_this(task: Task, runs: list[Begun]) -> list[Begun]:
    """The runs that asked this question about this text as it is now."""
    digest = None
    if task.context is not None:
        _, data, _ = encode_context(task.context)
        digest = hashlib.sha256(data).hexdigest()

    def is_the_same(start: RunStart) -> bool:
        if start.query != task.query:
            return False
        with contextlib.suppress(InputError):
            if digest is None:
                return not changed_since(task.paths, start.t)
            return start.context.sha256 == digest
        return False

    return [run for run in runs if is_the_same(run.start)]
