"""From a run, its error or its log to a scored result."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from distill.asking import Asker, Attempt
from distill.errors import DistillError
from distill.run_costs import cost_of
from distill.run_result import RunResult
from distill.scorers import Sample, Scorer
from distill.supervisor import driver
from distill.supervisor.journal import now
from distill.supervisor.turns import token_usage
from distill.tasks import Task
from distill.traces.records import RunEnd
from distill.traces.results import Failure, TaskResult
from distill.traces.tail import last_end


@dataclass(frozen=True, slots=True)
class Grading:
    """Makes the results of one evaluation; ``asked`` are the fingerprints of its tasks."""

    asker: Asker
    scorer: Scorer
    asked: dict[str, str]
    log_dir: Path

    async def answered(self, attempt: Attempt, run: RunResult) -> TaskResult:
        """The result of a run that has come to its end."""
        result = TaskResult(
            **self._common(attempt),
            status=run.status,
            answer=run.answer,
            run_id=run.run_id,
            iterations=run.iterations,
            supervisor_usage=token_usage(run.supervisor_usage),
            worker_usage=token_usage(run.worker_usage),
            worker_calls=run.worker_calls,
            worker_failures=run.worker_failures,
            elapsed_s=run.elapsed,
            dollars=run.dollars,
            ended_by=run.ended_by,
            answer_problem=run.answer_problem,
        )
        return await self.scored(attempt.task, result)

    async def recorded(self, attempt: Attempt, end: RunEnd) -> TaskResult:
        """The result of a run that had ended when its evaluation was killed."""
        result = TaskResult(
            **self._common(attempt),
            **cost_of(end),
            status=end.status,
            answer=end.answer,
            answer_problem=end.answer_problem,
            run_id=end.run,
        )
        return await self.scored(attempt.task, result)

    async def failed(
        self, attempt: Attempt, error: Exception, run_id: str | None, elapsed_s: float
    ) -> TaskResult:
        """A result with an error; what its run, if it got that far, had cost is in the log."""
        exit_code = error.exit_code if isinstance(error, DistillError) else DistillError.exit_code
        end = None
        if run_id is not None:
            end = await asyncio.to_thread(last_end, self.log_dir, run_id)
        return TaskResult(
            **self._common(attempt),
            **({"elapsed_s": elapsed_s} if end is None else cost_of(end)),
            status="failed",
            run_id=run_id,
            error=Failure(type(error).__name__, str(error) or repr(error), exit_code),
        )

    def _common(self, attempt: Attempt) -> dict[str, Any]:
        return {
            "task": attempt.task.id,
            "attempt": attempt.number,
            "asked": self.asked[attempt.task.id],
            "t": now(),
            "supervisor": self.asker.supervisor,
            "worker": self.asker.worker,
            "label": attempt.task.label,
            "log_dir": str(self.log_dir),
        }

    async def scored(self, task: Task, result: TaskResult) -> TaskResult:
        """The result with its score, where the task has a label and the run an end."""
        if task.label is None or result.error is not None:
            return result
        sample = Sample(task.query, result.answer, task.label)
        score = await driver.in_thread(driver.shared(), self.scorer.score, sample)
        return msgspec.structs.replace(
            result,
            t=now(),  # the last score of a run counts, and others may score it, too
            label=task.label,
            scorer=self.scorer.name,
            score=msgspec.UNSET if score.value is None else score.value,
            score_detail=score.detail,
            judge_usage=None if self.scorer.judge is None else token_usage(score.usage),
        )

    def is_outdated(self, task: Task, result: TaskResult) -> bool:
        """Whether it was scored otherwise, or against another label."""
        if task.label is None or result.error is not None:
            return False
        return result.scorer != self.scorer.name or result.label != task.label
