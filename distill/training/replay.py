"""Logged calls under loaded weights: how far the log-probabilities are from the logged ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from distill.protocol.worker_link import Sampling
from distill.traces import records
from distill.training.forced import View, at_rest, completion_logits, is_constrained, logprobs

LOGGED_VIEWS: tuple[View, ...] = ("raw_logprobs", "processed_logprobs")
"""What a worker may say that its log-probabilities are."""
FIRST_TOKENS = 512
"""Of a completion that are compared: what follows says no more, and takes memory."""
TOKENS_LIMIT = 32_768
"""Prompt and completion tokens that are read in all: a minute of a small model on two cores."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A call whose log-probabilities can be compared: nats, one for each of ``ids``."""

    prompt_ids: Sequence[int]
    ids: Sequence[int]
    logprobs: Sequence[float]
    sampling: Sampling
    declared: View


@dataclass(slots=True)
class Difference:
    """|Δ log-probability| over tokens, in nats."""

    tokens: int = 0
    worst: float = 0.0
    total: float = 0.0

    def add(self, values: Sequence[float]) -> None:
        self.tokens += len(values)
        # NaN is no difference that a maximum would see.
        found = [value if math.isfinite(value) else math.inf for value in values]
        self.worst = max(self.worst, *found, 0.0)
        self.total += math.fsum(found)

    @property
    def mean(self) -> float:
        return self.total / self.tokens if self.tokens else 0.0

    def __str__(self) -> str:
        return f"largest {self.worst:.2g}, mean {self.mean:.2g} nats"


def spoken(call: records.Call) -> Spoken | None:
    """None: it has no log-probabilities, or none of the model alone.

    A schema, a pattern or a list of choices shapes even the raw ones (``forced``).
    """
    ids, values = call.token_ids or (), call.logprobs or ()
    known = {
        name: call.sampling[name] for name in Sampling.__struct_fields__ if name in call.sampling
    }
    try:
        sampling = msgspec.convert(known, Sampling)
    except msgspec.ValidationError:
        return None
    if len(values) != len(ids) or not ids or not call.prompt_token_ids:
        return None
    if is_constrained(known):
        return None
    declared: Any = call.model.logprobs_mode or LOGGED_VIEWS[0]
    first = slice(FIRST_TOKENS)
    return Spoken(call.prompt_token_ids, ids[first], values[first], sampling, declared)


def affordable(rows: Sequence[Spoken]) -> list[Spoken]:
    """As many of the first ones as TOKENS_LIMIT allows, and one at least."""
    taken: list[Spoken] = []
    tokens = 0
    for row in rows:
        tokens += len(row.prompt_ids) + len(row.ids)
        if taken and tokens > TOKENS_LIMIT:
            break
        taken.append(row)
    return taken


def differences(
    model: Any, calls: Sequence[Spoken], views: Sequence[View] = ()
) -> Mapping[View | None, Difference]:
    """Of each of ``views``, and under None of the one that each call declares."""
    found: dict[View | None, Difference] = {each: Difference() for each in (None, *views)}
    with at_rest(model):
        for call in calls:
            logits = completion_logits(model, call.prompt_ids, call.ids)
            for view, difference in found.items():
                values = logprobs(
                    logits, call.prompt_ids, call.ids, call.sampling, view or call.declared
                )
                difference.add(
                    (values.cpu() - values.new_tensor(call.logprobs).cpu()).abs().tolist()
                )
    return found


ALL_VIEWS: tuple[View, ...] = get_args(View)
