"""The parity gate: logged calls are replayed on the loaded weights before anything is trained.

::

    calls ──► ids as logged? ──► |Δ log-probability| under the bound? ──► Parity
                   │                          │
              tokenizer, template     weights, adapter, data type, log-probability mode
                   └────────── ParityError ───┘

What is compared hangs on what the rows are for (``Need``). Rows of the very version that is loaded
are compared in all they say, whatever they are for. ``weights`` (rl, opd): all of it must agree, of
any row; in types that round, where log-probabilities can't tell versions that are close, so must
the hashes. ``ids`` (token-sft): rows of another model, as of a teacher, must agree in the
tokenizer, for their ids are learnt. ``text`` (all other fine-tuning): rows of another model need
nothing, and those of this model with another adapter agree in ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from distill.errors import InputError
from distill.traces import records
from distill.training import suspects
from distill.training.bounds import FLOAT32, Bound, bound_of
from distill.training.logged import kin
from distill.training.replay import LOGGED_VIEWS, affordable, differences, spoken
from distill.training.spelling import is_as_seen, misspelt, rendered

if TYPE_CHECKING:
    from distill.training.weights import Weights

Need = Literal["weights", "ids", "text"]
HOW_TO_RECORD = "workers record it with --record ids+logprobs"


@dataclass(frozen=True, slots=True)
class Parity:
    """``rows`` calls were replayed, and ``tokens`` log-probabilities of them compared.

    ``worst`` and ``mean`` are of their |Δ|, in nats, None where there were none. ``checked`` says
    what was compared, and what was not.
    """

    rows: int
    checked: str
    tokens: int = 0
    worst: float | None = None
    mean: float | None = None
    bound: Bound | None = None

    def __str__(self) -> str:
        if not self.rows:
            return self.checked
        calls = "1 call" if self.rows == 1 else f"{self.rows:,} calls"
        if self.worst is None or self.bound is None:
            return f"{calls}: {self.checked}"
        return (
            f"{calls}: {self.checked}; |Δ| of {self.tokens:,} log-probabilities is at most "
            f"{self.worst:.2g}, on average {self.mean:.2g} nats (bound: {self.bound})"
        )


class ParityError(InputError):
    """The loaded weights are not what the log says that it is of; ``cause`` is the likely one."""

    def __init__(self, cause: suspects.Cause, why: str, evidence: Sequence[str]) -> None:
        told = f" Seen: {'; '.join(evidence)}." if evidence else ""
        super().__init__(
            f"the model in training is not the one that was logged. Likely cause: {cause}. {why}."
            f"{told} {suspects.REMEDIES[cause]}; --no-parity trains without this check."
        )
        self.cause: suspects.Cause = cause
        self.evidence = list(evidence)


def check(weights: "Weights", calls: Sequence[records.Call], need: Need = "weights") -> Parity:
    """Replay these calls; what was compared.

    Raises ParityError, after which the weights are of no use: to find the cause they may have been
    rounded.
    """
    own = [call for call in calls if kin(call.model, weights.card) != "other"]
    if need == "text" and not own:
        return Parity(0, "nothing is compared: to learn texts of others needs no weights")
    calls = own if need == "text" else calls
    told = [call for call in calls if call.prompt_token_ids and call.token_ids]
    if not told:
        return _of_texts(weights, calls)
    for call in told:
        with_template = need == "weights" or kin(call.model, weights.card) != "other"
        if wrong := misspelt(call, weights.tokenizer, with_template=with_template):
            evidence = [wrong.evidence, *suspects.hashes(weights.card, call.model, wrong.cause)]
            raise ParityError(wrong.cause, suspects.WHY[wrong.cause], evidence)
    replayed = [
        call for call in told if need == "weights" or kin(call.model, weights.card) == "version"
    ]
    if not replayed:
        return Parity(
            len(told), "token ids agree; they are of other weights, so no more is compared"
        )
    return _of_values(weights, told, replayed)


def _of_values(
    weights: "Weights", told: Sequence[records.Call], replayed: Sequence[records.Call]
) -> Parity:
    compared = [(call, each) for call in replayed if (each := spoken(call)) is not None]
    if not compared:
        is_bound = any(call.logprobs for call in replayed)
        why = "are those of constrained answers" if is_bound else f"are not there ({HOW_TO_RECORD})"
        return Parity(
            len(told), f"token ids agree; the weights are unchecked: log-probabilities {why}"
        )
    for call, each in compared:
        if each.declared not in LOGGED_VIEWS:
            cause: suspects.Cause = "log-probability mode"
            raise ParityError(cause, f"{each.declared} of call {call.id} are no such values", [])
    models = [call.model for call, _ in compared]
    bound = bound_of(weights.card.dtype, *(each.dtype for each in models))
    rows = affordable([each for _, each in compared])
    found = differences(weights.model, rows)[None]
    if not bound.holds(found):
        raise ParityError(*suspects.likely(weights, models, rows, bound))
    if bound != FLOAT32:
        _check_hashes(weights, models)
    return Parity(len(told), "token ids agree", found.tokens, found.worst, found.mean, bound)


def _check_hashes(weights: "Weights", models: Sequence[records.Model]) -> None:
    """Raise ParityError where they differ: rounded values can't tell versions that are close."""
    for model in models:
        if model.weights_hash and kin(model, weights.card) != "version":
            evidence = suspects.hashes(weights.card, model)
            raise ParityError(*suspects.version(weights.card, model, evidence))


def _of_texts(weights: "Weights", calls: Sequence[records.Call]) -> Parity:
    """Without ids: whether the loaded template writes what the log has."""
    seen = [call for call in calls if call.messages and is_as_seen(call)]
    for call in seen:
        if rendered(call, weights.tokenizer) != call.prompt:
            evidence = [
                f"the prompt of call {call.id} was written in another way",
                *suspects.hashes(weights.card, call.model, "template"),
            ]
            raise ParityError("template", suspects.WHY["template"], evidence)
    if not seen:
        raise ParityError(
            "nothing to compare", "The log has neither token ids nor the text that was read", []
        )
    return Parity(len(seen), f"the chat template agrees; ids are not there ({HOW_TO_RECORD})")
