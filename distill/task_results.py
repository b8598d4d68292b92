"""The results file: a line for each attempt at a task, appended when it has ended.

What is in it is not asked again; its last line about an attempt counts. A torn last line, of a
process that was killed while it wrote, is skipped.
"""

import fcntl
import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from distill.closing import Closing
from distill.errors import InputError
from distill.redaction import NOTHING, Redaction
from distill.supervisor.text import printable_json
from distill.tasks import Task
from distill.traces.results import TaskResult, results_in
from distill.user_folders import make_private

ENDING_S = 1.0
"""An evaluation that was just stopped may take so long to end, before it can go on."""


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
