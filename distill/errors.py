"""The public errors, each with the exit code that the command line ends with.

::

    DistillError                  6
    ├── InputError                2   the question, the text or an argument can't be used
    │   └── NoRowsError           5   the runs have nothing to learn from
    ├── MachineError              3   this machine can't do it: platform, memory, device
    │   └── SandboxError          3   no safe jail can be built, or its process died for good
    ├── ModelError                4   a model or its endpoint failed for good
    │   ├── WindowError           4   the messages do not fit the model's context window
    │   ├── WorkerError           4   one worker call; ``kind`` says why
    │   └── WorkerBatchError      4   some calls of a batch; carries the other answers
    │       └── WorkerBudgetError 4   some of them were not sent: a budget does not cover them
    ├── SubRunError               4   sub-runs of a run gave no answer; carries the other answers
    └── BudgetError               5   a budget does not cover what was to be done, or ended the run

A failure inside the model's own code is none of these: it is data, shown to the model.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class DistillError(Exception):
    """Something of distill's own failed; the message says what was wrong and what to do."""

    exit_code = 6


class InputError(DistillError):
    """The question, the text or an argument can't be used."""

    exit_code = 2


class NoRowsError(InputError):
    """The runs that were named have no row, or none that anything can be learnt from."""

    exit_code = 5


class MachineError(DistillError):
    """This machine can't do what was asked."""

    exit_code = 3


class SandboxError(MachineError):
    """No safe jail can be built here, or the sandbox failed for good."""


class ModelError(DistillError):
    """A model, or the endpoint that serves it, failed for good.

    ``attempts`` is how often it was asked.
    """

    exit_code = 4
    attempts = 1


class WindowError(ModelError):
    """The messages do not fit the model's context window."""


class WorkerError(ModelError):
    """One worker call failed for good.

    ``kind`` is ``too_long``, ``bad_request``, ``engine``, ``lost``, ``poison``, ``cancelled``,
    ``model`` or ``budget``: it was not sent, or given up, for the ``budget`` of that name.
    """

    def __init__(self, detail: str, *, kind: str = "model", budget: str = "") -> None:
        super().__init__(detail)
        self.kind = "budget" if budget else kind
        self.budget = budget


class WorkerBatchError(ModelError):
    """Some calls of a batch failed for good.

    ``answers`` has one text per prompt, None where it failed; ``errors`` maps those
    indices to their errors; ``replies`` are the whole LMResponses where a handler raised it.
    """

    def __init__(
        self,
        answers: Sequence[Any],
        errors: Mapping[int, WorkerError],
        total: int,
        replies: Sequence[Any] = (),
    ) -> None:
        first = min(errors)
        super().__init__(
            f"{len(errors)} of {total} worker calls failed; item {first}: {errors[first]}"
        )
        self.answers = list(answers)
        self.errors = dict(errors)
        self.replies = list(replies)


class WorkerBudgetError(WorkerBatchError):
    """Calls of a batch were not sent, because a budget does not cover them.

    ``budget`` is its name, a field of ``distill.Budget``; ``answers`` and ``errors`` are as in
    any batch that failed in part.
    """

    def __init__(
        self, answers: Sequence[Any], errors: Mapping[int, WorkerError], total: int
    ) -> None:
        super().__init__(answers, errors, total)
        self.budget = next(each.budget for each in errors.values() if each.budget)


class SubRunError(DistillError):
    """Sub-runs gave no answer. ``answers`` and ``errors`` are as in a WorkerBatchError, where one
    call asked for several.
    """

    exit_code = 4

    def __init__(
        self, detail: str, answers: Sequence[Any] = (), errors: Mapping[int, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.answers = list(answers)
        self.errors = dict(errors or {})


class BudgetError(DistillError):
    """A budget does not cover what was to be done, or ended the run before there was an answer.

    ``budget`` is its name, a field of ``distill.Budget``; ``left`` what was left of it.
    """

    exit_code = 5

    def __init__(self, detail: str, *, budget: str = "turns", left: float = 0) -> None:
        super().__init__(detail)
        self.budget = budget
        self.left = left
