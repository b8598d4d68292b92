"""Recorded runs in lanes: each to its score, which is appended to its log when it is there."""

import asyncio
import contextlib
import dataclasses
import os
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.errors import BudgetError, InputError, MachineError
from distill.judge_budget import BudgetedJudge
from distill.labels import Labels
from distill.models import Usage
from distill.recorded_results import Recorded, RecordedRun, all_runs, label_of, recorded_in
from distill.redaction import Redaction
from distill.scorers import Sample, Score, Scorer
from distill.standings import Comparison
from distill.supervisor.call_threads import CallThreads
from distill.supervisor.journal import Journal, now
from distill.supervisor.turns import token_usage
from distill.traces import records
from distill.traces.results import TaskResult

TELL_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class ScoringProgress:
    """How far a scoring is: runs of those ``total`` to be scored; ``untold``: nobody could say.

    ``dollars`` are the judge's so far, None where nobody knows.
    """

    done: int
    total: int
    untold: int
    dollars: float | None
    elapsed_s: float


@dataclass(slots=True)
class Scores:
    """What came of a scoring, and what all scores of these runs come to, by scorer.

    ``scored`` runs have a new record; ``untold`` says by run why it could not be scored,
    ``left_out`` counts runs by why they were not to be. ``idle_labels`` were given and name none of
    the runs. ``busy`` says by folder why nothing can be
    appended to it now. ``redacted`` runs were scored by what their logs say. ``judge_usage`` and
    ``dollars`` are of this scoring alone. ``stopped`` is the budget's error, where it ended the
    scoring.
    """

    results: dict[str, list[TaskResult]] = field(default_factory=dict)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    scored: int = 0
    untold: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    idle_labels: list[str] = field(default_factory=list)
    unreadable_lines: int = 0
    redacted: int = 0
    busy: dict[Path, str] = field(default_factory=dict)
    judge_usage: Usage = field(default_factory=Usage)
    dollars: float | None = 0.0
    stopped: BudgetError | None = None


class Scoring:
    """One scoring while it lasts. All on the loop, but for the scorer."""

    def __init__(
        self,
        threads: CallThreads,
        scorer: Scorer,
        judge: BudgetedJudge | None,
        labels: Labels,
        again: bool,
        told: Scores,
        tell: Callable[[ScoringProgress], None] | None,
    ) -> None:
        self._threads = threads
        self._scorer, self._judge = scorer, judge
        self._labels = labels
        self._again = again
        self._told = told
        self._tell = tell
        self._producer = records.Producer("scorer", scorer.name, os.getpid())
        self._total = self._done = 0
        self._begun_s, self._told_s = time.monotonic(), 0.0

    async def run(self, found: dict[Path, Recorded], concurrency: int) -> None:
        """Score what is to be scored in each folder, one after another."""
        threads = self._threads
        self._total = sum(1 for run in all_runs(found) if self._is_open(run))
        for folder, recorded in found.items():
            wanted = frozenset(run.id for run in recorded.runs if self._is_open(run))
            self._count_left_out(recorded)
            if not wanted or self._told.stopped is not None:
                continue
            try:
                journal = await threads.call(_journal, folder)
            except InputError as error:
                self._told.busy[folder] = str(error)
                self._total -= len(wanted)
                continue
            with contextlib.closing(journal):
                # Again, now that nobody else writes to it.
                open_runs = (await threads.call(recorded_in, folder, wanted)).runs
                await self._score_all(journal, deque(filter(self._is_open, open_runs)), concurrency)
        self._show(now_too=True)

    def _is_open(self, run: RecordedRun) -> bool:
        """Whether it is to be scored, or its score is only in an evaluation's results."""
        label = label_of(self._labels, run)
        if run.has_failed or (label is None and self._scorer.needs_label):
            return False
        known = run.known(self._scorer.name)
        if self._again or known is None or run.told_only(self._scorer.name) is not None:
            return True
        return known.value is None or known.label != _as_logged(run, label)

    def _count_left_out(self, recorded: Recorded) -> None:
        for run in recorded.runs:
            if run.has_failed:
                self._told.left_out["have failed"] += 1
            elif self._scorer.needs_label and label_of(self._labels, run) is None:
                self._told.left_out["have no label"] += 1

    async def _score_all(
        self, journal: Journal, queue: deque[RecordedRun], concurrency: int
    ) -> None:
        lanes = [
            asyncio.create_task(self._lane(journal, queue))
            for _ in range(min(concurrency, len(queue)))
        ]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
        if not queue:
            self._told.stopped = None  # what one lane could not do while others were at it was done

    async def _lane(self, journal: Journal, queue: deque[RecordedRun]) -> None:
        """Score until none is left, or the budget does not cover another beside the other lanes'.

        So the last lane goes on until it is really used up.
        """
        while queue:
            run = queue.popleft()
            label = label_of(self._labels, run)
            begun_s = time.monotonic()
            try:
                score = await self._scored(run, label)
            except BudgetError as error:
                queue.appendleft(run)
                self._told.stopped = error
                return
            redaction = Redaction.again(run.start.redacted)
            score = dataclasses.replace(score, detail=redaction.text(score.detail))
            self._keep(journal, run, _as_logged(run, label), score, time.monotonic() - begun_s)

    async def _scored(self, run: RecordedRun, label: Any) -> Score:
        """Its score: the evaluation's, if that has one of this scorer against the same label."""
        told = run.told_only(self._scorer.name)
        known = None if told is None else _as_logged(run, told.label)
        if told is not None and known == _as_logged(run, label) and not self._again:
            return Score(told.value, told.detail)
        sample = Sample(run.start.query, run.end.answer, label)
        score: Score = await self._threads.call(self._scorer.score, sample)
        return score

    def _keep(
        self, journal: Journal, run: RecordedRun, label: Any, score: Score, elapsed_s: float
    ) -> None:
        """Append it. What nobody could tell leaves a line only where it has cost something."""
        told, has_cost = self._told, score.usage != Usage()
        self._done += 1
        told.judge_usage += score.usage
        if score.value is None:
            told.untold[run.id] = score.detail or f"{self._scorer.name} did not say"
        if score.value is not None or has_cost:
            record = records.Score(
                t=now(),
                run=run.id,
                producer=self._producer,
                scorer=self._scorer.name,
                value=score.value,
                detail=score.detail,
                label=label,
                usage=token_usage(score.usage) if has_cost else None,
                dollars=self._judge.dollars_of(score.usage) if self._judge else None,
                elapsed_s=elapsed_s,
            )
            try:
                journal.supervisor(record)
            except OSError as error:
                raise MachineError(f"{journal.folder} can't be written to: {error}") from error
        told.scored += score.value is not None
        told.dollars = self._judge.dollars if self._judge is not None else 0.0
        self._show()

    def _show(self, *, now_too: bool = False) -> None:
        at_s = time.monotonic()
        if self._tell is None or (at_s - self._told_s < TELL_EVERY_S and not now_too):
            return
        self._told_s = at_s
        told = self._told
        self._tell(
            ScoringProgress(
                self._done, self._total, len(told.untold), told.dollars, at_s - self._begun_s
            )
        )


def _as_logged(run: RecordedRun, label: Any) -> Any:
    """The label as the run's log tells it: it may quote what is blotted out there."""
    return Redaction.again(run.start.redacted).value(label)


def _journal(folder: Path) -> Journal:
    """The one hand that writes to the folder. Raises InputError: a run is writing, or it can't."""
    try:
        return Journal(folder)
    except InputError as error:
        why = str(error).removesuffix(" Choose another with --log-dir.")
        raise InputError(f"{why} Score it when that has ended.") from error
