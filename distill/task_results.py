"""The results file: a line for each attempt at a task, appended when it has ended.

What is in it is not asked again; its last line about an attempt counts. A torn last line, of a
process that was killed while it wrote, is skipped.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from distill.closing import Closing
from distill.errors import DistillError, InputError
from distill.redaction import NOTHING, Redaction
from distill.supervisor.text import printable_json
from distill.tasks import Task
from distill.traces.records import TokenUsage
from distill.user_folders import make_private

ENDING_S = 1.0
"""An evaluation that was just stopped may take so long to end, before it can go on."""
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


class ResultsFile(Closing):
    """The results of one evaluation; a context manager. One process at a time writes to it.

    ``redactions`` are of what is written, by task. Raises InputError where it can't be used, or
    holds something else.
    """

    def __init__(self, path: Path, redactions: Mapping[str, Redaction] | None = None) -> None:
        self._redactions = redactions or {}
        self.path = path.expanduser().absolute()
        self._encoder = msgspec.json.Encoder()
        self.results: dict[tuple[str, int], TaskResult] = {}
        try:
            make_private(self.path.parent)
            flags = os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            self._take()
            for result in results_in(self.path):
                self.results[result.key] = result
        except BaseException:
            self.close()
            raise

    def _unusable(self, error: OSError) -> InputError:
        why = error.strerror or error
        return InputError(f"the results file {self.path} can't be used: {why}. Choose --results")

    def _take(self) -> None:
        due_s = time.monotonic() + ENDING_S
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if time.monotonic() > due_s:
                    raise InputError(
                        f"another distill is writing to {self.path}: wait for its end, or choose "
                        "another file with --results"
                    ) from error
            time.sleep(0.05)

    def check(self, tasks: list[Task], asked: dict[str, str], supervisor: str) -> None:
        """Raise InputError where it has results of another question, or of another supervisor."""
        for task in tasks:
            for attempt in range(1, task.attempts + 1):
                result = self.results.get((task.id, attempt))
                if result is None:
                    continue
                was = None
                if result.asked != asked[task.id]:
                    was = f"another question, text or options for the task {task.id!r}"
                elif supervisor != result.supervisor:
                    was = f"answers of the supervisor {result.supervisor}, not {supervisor}"
                if was is not None:
                    raise InputError(
                        f"{self.path} has {was}: choose another file with --results, or delete it"
                    )

    def append(self, result: TaskResult) -> None:
        """Add a line, in one write. Raises InputError if the disk refuses."""
        written = _redacted(result, self._redactions.get(result.task, NOTHING))
        try:
            line = self._encoder.encode(written)
        except UnicodeEncodeError:  # a lone surrogate in the answer
            line = msgspec.json.encode(printable_json(msgspec.to_builtins(written)))
        end = os.lseek(self._fd, 0, os.SEEK_END)
        try:
            is_torn = end > 0 and os.pread(self._fd, 1, end - 1) != b"\n"
            view = memoryview(b"\n" * is_torn + line + b"\n")
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            os.ftruncate(self._fd, end)
            raise self._unusable(error) from error
        self.results[result.key] = result

    def close(self) -> None:
        """Let the file go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _redacted(result: TaskResult, redaction: Redaction) -> TaskResult:
    """The result as it is written."""
    if not redaction:
        return result
    error = result.error
    return msgspec.structs.replace(
        result,
        answer=redaction.value(result.answer),
        label=redaction.value(result.label),
        score_detail=redaction.text(result.score_detail),
        answer_problem=redaction.value(result.answer_problem),
        error=error and msgspec.structs.replace(error, detail=redaction.text(error.detail)),
    )
