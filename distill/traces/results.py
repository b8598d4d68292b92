"""What the results file of an evaluation says of its runs, beside their logs."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from distill.errors import DistillError, InputError
from distill.traces.records import TokenUsage

Status = Literal["final", "forced", "unanswered", "failed", "cancelled"]


class Failure(msgspec.Struct, frozen=True):
    """Why an attempt has no answer: an error's class, its message, and the exit code it has."""

    kind: str
    detail: str
    exit_code: int = DistillError.exit_code


class TaskResult(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at a task. ``status`` is its run's, ``failed`` where ``error`` says why.

    ``score`` is absent where there is no label or nobody could tell (``score_detail`` says why); 0
    is a score, also of no answer. ``asked`` stands for the question, text and options. The trace is
    in ``log_dir`` under ``run_id``; ``ended_by`` is the budget that ended it, ``answer_problem``
    what is wrong with an answer that its rules refused. ``dollars``, without a judge's, are None
    where a price is not known. ``t`` is when it was scored, the wall clock in seconds since 1970.
    """

    task: str
    attempt: int
    status: Status
    asked: str
    t: float
    supervisor: str
    worker: str
    answer: Any = None
    label: Any = None
    scorer: str | None = None
    score: float | msgspec.UnsetType = msgspec.UNSET
    score_detail: str = ""
    judge_usage: TokenUsage | None = None
    error: Failure | None = None
    run_id: str | None = None
    log_dir: str | None = None
    iterations: int = 0
    supervisor_usage: TokenUsage = TokenUsage(0, 0)
    worker_usage: TokenUsage = TokenUsage(0, 0)
    worker_calls: int = 0
    worker_failures: int = 0
    elapsed_s: float = 0.0
    dollars: float | None = None
    ended_by: str | None = None
    answer_problem: str | None = None

    @property
    def tokens(self) -> int:
        """Of both models."""
        used = (self.supervisor_usage, self.worker_usage)
        return sum(each.input_tokens + each.output_tokens for each in used)

    @property
    def key(self) -> tuple[str, int]:
        """Which attempt at which task."""
        return self.task, self.attempt


def results_in(path: Path) -> Iterator[TaskResult]:
    """Every line of a results file. Raises InputError where one is something else, OSError."""
    decoder = msgspec.json.Decoder(TaskResult)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield decoder.decode(line)
            except msgspec.ValidationError as error:
                raise InputError(
                    f"{path}, line {number} is no result of a task ({error}): choose another file "
                    "with --results"
                ) from error
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue  # torn


@dataclass(frozen=True, slots=True)
class Told:
    """What an evaluation's results say of its runs: the last result of each, by the run's id.

    ``done_again`` are runs in whose place another one counts.
    """

    results: dict[str, TaskResult]
    done_again: frozenset[str]

    def and_then(self, later: "Told") -> "Told":
        """With what another file says, which goes before."""
        results = self.results | later.results
        return Told(results, (self.done_again | later.done_again) - set(results))


NOTHING_TOLD = Told({}, frozenset())


def places_beside(folder: Path) -> list[Path]:
    """Where ``--tasks`` writes the results of runs in this log folder unless told otherwise.

    ``NAME.jsonl`` beside ``NAME.logs``, or ``results.jsonl`` in the folder; those that are there.
    """
    places = [folder / "results.jsonl"]
    if folder.suffix == ".logs":
        places.append(folder.with_suffix(".jsonl"))
    return [path for path in places if path.is_file()]


def results_beside(folder: Path) -> Told:
    """The results of the evaluation whose log folder this is; empty where it is none's.

    A file that stands where results would may be something else.
    """
    told = NOTHING_TOLD
    for path in places_beside(folder):
        with contextlib.suppress(InputError):
            told = told.and_then(told_by(path))
    return told


def told_by(path: Path) -> Told:
    """What a results file says. Raises InputError where it can't be read, or is something else."""
    found: dict[tuple[str, int], TaskResult] = {}
    runs: set[str] = set()
    try:
        for result in results_in(path):
            found[result.key] = result
            runs |= set() if result.run_id is None else {result.run_id}
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    last = {result.run_id: result for result in found.values() if result.run_id is not None}
    return Told(last, frozenset(runs - set(last)))
