"""From the logs to results: each run that has ended, with its answer, its cost and its scores."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from distill.errors import InputError
from distill.labels import Labels
from distill.run_costs import cost_of
from distill.supervisor.recorded import CUT_OFF
from distill.supervisors import REPLAY
from distill.traces import records
from distill.traces.answering import Weights, names_of, weights_of_runs
from distill.traces.last_scores import last_scores
from distill.traces.naming import check_log
from distill.traces.questions import question_hash
from distill.traces.reading import Skipped, lines
from distill.traces.results import Failure, TaskResult, Told, results_beside

FAILED = ("failed", "cancelled")
"""How a run ends that has nothing to be scored."""


FIRST = 1
"""The number of a run's first turn; 0 is the prelude of its dialect."""


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run that has ended. ``scores`` has the last record of each scorer.

    ``told`` is what an evaluation's results say of it, None where none do; ``first_code_ran`` is
    whether the code of the first reply ran to its end, in the run or when it was gone on with; None
    where there was no reply.
    """

    folder: Path
    start: records.RunStart
    end: records.RunEnd
    scores: dict[str, records.Score]
    told: TaskResult | None
    first_code_ran: bool | None = None

    @property
    def id(self) -> str:
        """The run's id."""
        assert self.start.run is not None
        return self.start.run

    @property
    def asked(self) -> str:
        """What two runs of one task have in common."""
        return question_hash(self.start)

    @property
    def has_failed(self) -> bool:
        """Whether there is nothing to be scored; that a run gave no answer can be."""
        return self.end.status in FAILED

    def known(self, scorer: str) -> records.Score | None:
        """What it was scored by this scorer, in the log or in an evaluation's results."""
        return last_scores(self.scores, self.told).get(scorer)

    def told_only(self, scorer: str) -> records.Score | None:
        """What counts by this scorer, where only an evaluation's results have it."""
        known = self.known(scorer)
        return None if known is self.scores.get(scorer) else known

    @property
    def scorers(self) -> list[str]:
        """By which it was scored."""
        return list(last_scores(self.scores, self.told))


@dataclass(frozen=True, slots=True)
class Recorded:
    """The runs of a folder that have ended and are nobody's sub-run.

    ``cut_off`` counts those without an end, ``done_again`` those in whose place an evaluation
    counts another, ``unreadable`` lines that are no records.
    """

    runs: list[RecordedRun]
    cut_off: int = 0
    done_again: int = 0
    unreadable: int = 0


def recorded_in(folder: Path, only: frozenset[str] = frozenset()) -> Recorded:
    """The runs of a log folder, or only those of these ids. Raises InputError: there is no log."""
    starts: dict[str, records.RunStart] = {}
    ends: dict[str, records.RunEnd] = {}
    scores: defaultdict[str, dict[str, records.Score]] = defaultdict(dict)
    ran: dict[str, bool] = {}
    unreadable = 0
    check_log(folder)
    for _, record in lines(folder, records.SUPERVISOR_LOG):
        if isinstance(record, Skipped):
            unreadable += 1
        elif record.run is None or (only and record.run not in only):
            continue
        elif isinstance(record, records.RunStart) and record.parent is None:
            starts[record.run] = record
        elif isinstance(record, records.RunEnd):
            ends[record.run] = record
        elif isinstance(record, records.Score):
            scores[record.run][record.scorer] = record
        elif isinstance(record, records.Turn) and record.turn == FIRST:
            ran[record.run] = record.cells > 0
        elif isinstance(record, records.Cell) and record.turn == FIRST and record.lost != CUT_OFF:
            ran[record.run] = ran.get(record.run, True) and record.status in ("ok", "final")
    if missing := sorted(only - set(starts)):
        raise InputError(f"{folder} has no run {missing[0]}, or it is a sub-run of another")
    told = results_beside(folder)
    runs = [
        RecordedRun(folder, start, ends[run], scores[run], told.results.get(run), ran.get(run))
        for run, start in starts.items()
        if run in ends and run not in told.done_again
    ]
    return Recorded(runs, len(set(starts) - set(ends)), _done_again(starts, told), unreadable)


def _done_again(starts: Iterable[str], told: Told) -> int:
    return len(told.done_again.intersection(starts))


def all_runs(found: Mapping[Path, Recorded]) -> Iterator[RecordedRun]:
    """The runs of several folders."""
    return (run for recorded in found.values() for run in recorded.runs)


class Workers:
    """What the workers of runs are called, so that other weights have another name."""

    def __init__(self, runs: Iterable[RecordedRun]) -> None:
        self._answered: dict[str, frozenset[Weights]] = {}
        self._usual: defaultdict[str, set[frozenset[Weights]]] = defaultdict(set)
        known = list(runs)
        for folder in dict.fromkeys(run.folder for run in known):
            self._answered |= weights_of_runs(folder)
        for run in known:
            if (weights := self._answered.get(run.id)) is not None:
                self._usual[run.start.worker].add(weights)
        self._names = names_of([one for each in self._answered.values() for one in each])

    def name(self, run: RecordedRun) -> str:
        """The run's worker; where it was asked nothing, that of other runs, if there is one."""
        weights = self._answered.get(run.id)
        if weights is None and len(usual := self._usual[run.start.worker]) == 1:
            (weights,) = usual
        if weights is None:
            return run.start.worker
        return " & ".join(sorted(self._names[each] for each in weights))


def results_of(
    runs: Sequence[RecordedRun], workers: Workers, scorer: str, labels: Labels
) -> list[TaskResult]:
    """The runs as results with their scores by this scorer: one that is null is absent.

    Runs without a score have a label where ``labels`` has one, or another run of the same task.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    found = []
    expected = {run.asked: known.label for run in runs if (known := run.known(scorer)) is not None}
    for run in runs:
        supervisor, worker = _supervisor(run), workers.name(run)
        counts[run.asked, supervisor, worker] += 1
        known, label = run.known(scorer), label_of(labels, run)
        label = expected.get(run.asked) if label is None else label
        found.append(
            TaskResult(
                task=run.start.label or run.id,
                attempt=counts[run.asked, supervisor, worker],
                status=run.end.status,
                asked=run.asked,
                t=run.end.t,
                supervisor=supervisor,
                worker=worker,
                answer=run.end.answer,
                label=label if known is None else known.label,
                error=Failure(run.end.status, run.end.error or "") if run.has_failed else None,
                run_id=run.id,
                log_dir=str(run.folder),
                answer_problem=run.end.answer_problem,
                scorer=scorer,
                **_scored(run, scorer),
                **cost_of(run.end),
            )
        )
    return found


def _supervisor(run: RecordedRun) -> str:
    """Replays are one supervisor: each has the name of the run that it does again."""
    return REPLAY.rstrip(":") if run.start.supervisor.startswith(REPLAY) else run.start.supervisor


def label_of(labels: Labels, run: RecordedRun) -> Any:
    """The expected answer of a run: one that was given, or its evaluation's, or that which it was
    scored against last; None: unknown.

    A redacted log has labels as they are not.
    """
    label = labels.of(run.id, run.start.label)
    if label is None and run.told is not None:
        label = run.told.label
    if label is None and not run.start.redacted:
        scores = sorted(run.scores.values(), key=lambda score: score.t)
        label = next((score.label for score in reversed(scores) if score.label is not None), None)
    return label


def _scored(run: RecordedRun, scorer: str) -> dict[str, Any]:
    known = run.known(scorer)
    if known is None or run.has_failed:
        return {}
    score = msgspec.UNSET if known.value is None else known.value
    return {"score": score, "score_detail": known.detail, "judge_usage": known.usage}
