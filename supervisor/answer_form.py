"""What a cell gets for a prompt: a text, several (``n``), or texts with their log-probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from distill.errors import WorkerError
from distill.protocol import worker_link as wire
from distill.protocol.message import Record
from distill.traces import records

MOST_ANSWERS = 1000
"""To one prompt."""


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """``n`` answers to each prompt as a list, None: one, by itself.

    Each answer is a request of its own, with a line of its own in the log: the prompt is read once
    because requests that begin alike go to one worker together. ``logprobs``: as a dict with the
    token ids and their log-probabilities.
    """

    n: int | None = None
    logprobs: bool = False

    @staticmethod
    def of(options: Mapping[str, Any]) -> "AnswerForm":
        """The form that a call's options ask for. Raises WorkerError: bad_request."""
        n, logprobs = options.get("n"), options.get("logprobs", False)
        if n is not None and (type(n) is not int or not 1 <= n <= MOST_ANSWERS):
            raise WorkerError(f"n is a number from 1 to {MOST_ANSWERS}", kind="bad_request")
        if not isinstance(logprobs, bool):
            raise WorkerError("logprobs is True or False", kind="bad_request")
        if logprobs and options.get("schema"):
            raise WorkerError("logprobs are of texts: leave out schema", kind="bad_request")
        if (n or 1) > 1 and not options.get("temperature"):
            raise WorkerError(
                f"{n} answers at temperature 0 are the same: set a temperature", kind="bad_request"
            )
        return AnswerForm(n, logprobs)

    @staticmethod
    def of_line(line: records.Call) -> "AnswerForm":
        """The form that the call of this line had asked for."""
        return AnswerForm(line.sampling.get("n"), line.sampling.get("logprobs", False))

    @property
    def count(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def logged(self) -> dict[str, Any]:
        """What a line's ``sampling`` says of it."""
        told: dict[str, Any] = {} if self.n is None else {"n": self.n}
        return {**told, "logprobs": True} if self.logprobs else told

    def record(self, default: Record) -> Record:
        """How much of each completion the log keeps: what the cell gets, at least."""
        return "ids+logprobs" if self.logprobs else default

    def spread(self, prompts: Sequence[Any]) -> Sequence[Any]:
        """The prompt of each answer. What is no list of prompts stays as it is."""
        if not self.n or not isinstance(prompts, list | tuple):
            return prompts
        return [prompt for prompt in prompts for _ in range(self.n)]

    def sampling(self, sampling: wire.Sampling, item: int) -> wire.Sampling:
        """The parameters of one answer: each to a prompt has a seed of its own, if there is one."""
        number = item % self.count
        if sampling.seed is None or not number:
            return sampling
        return msgspec.structs.replace(sampling, seed=(sampling.seed + number) & wire.MOST_SEED)

    def logged_sampling(self, call: dict[str, Any], answer: wire.Sampling) -> dict[str, Any]:
        """What the line of one answer says: as the call's, but for its seed."""
        return call if self.n is None or answer.seed is None else {**call, "seed": answer.seed}

    def gathered(self, answers: Sequence[Any]) -> list[Any]:
        """The answers by prompt."""
        if self.n is None:
            return list(answers)
        starts = range(0, len(answers), self.n)
        return [list(answers[start : start + self.n]) for start in starts]

    def by_prompt(self, errors: Mapping[int, WorkerError]) -> dict[int, WorkerError]:
        """The first error of each prompt that has one."""
        found: dict[int, WorkerError] = {}
        for item in sorted(errors):
            found.setdefault(item // self.count, errors[item])
        return found

    def answer(self, result: wire.Result) -> Any:
        """What the cell gets: a str, or a dict. Raises WorkerError where the worker tells less."""
        if not self.logprobs:
            return result.text
        packed = result.token_ids
        ids = None if packed is None else wire.unpack_ids(packed)
        return _with_logprobs(result.text, ids, result.logprobs)

    def answer_again(self, line: records.Call) -> Any:
        """The same, from the line of the log."""
        if not self.logprobs:
            return line.response
        return _with_logprobs(line.response or "", line.token_ids, line.logprobs)


ONE_TEXT = AnswerForm()


def _with_logprobs(
    text: str, ids: Sequence[int] | None, logprobs: Sequence[float] | None
) -> dict[str, Any]:
    if logprobs is None:
        raise WorkerError("this worker gives no log-probabilities", kind="bad_request")
    told = None if ids is None else list(ids)
    return {"text": text, "token_ids": told, "logprobs": list(logprobs)}
