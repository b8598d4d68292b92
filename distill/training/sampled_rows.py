"""Rows of a data set as completions to train on: of the right version, whole, and short enough."""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distill.errors import NoRowsError
from distill.training.completions import Completion
from distill.training.staleness import Fresh, RowVersion

if TYPE_CHECKING:
    from distill.training.settings import TrainSettings
    from distill.training.weights import Weights

Row = Mapping[str, Any]
STALE = "sampled by weights that are not in training (--staleness N takes earlier versions)"
FOREIGN = "token ids that the model does not have"
BROKEN = "not one log-probability, a number of at most 0, for each token"


@dataclass(slots=True)
class Kept:
    """``rows`` are trained on; ``dropped`` counts the others, by reason."""

    rows: list[Completion] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(row.tokens for row in self.rows)

    def told(self) -> list[str]:
        """What was dropped, for people. Raises NoRowsError where no row is left."""
        told = [f"{count:,} rows dropped: {why}" for why, count in self.dropped.most_common()]
        if not self.rows:
            raise NoRowsError(f"no row is left to train on: {'; '.join(told)}")
        return told


class Fit:
    """Which rows can be trained on; ``more`` says what else is wrong with one."""

    def __init__(
        self,
        fresh: Fresh,
        weights: "Weights",
        settings: "TrainSettings",
        more: Callable[[Row], str | None] = lambda _: None,
    ) -> None:
        window = weights.card.window_tokens
        self._limit = min(settings.max_tokens or window, window)
        self._vocabulary = int(weights.model.get_input_embeddings().num_embeddings)
        self._fresh, self._more = fresh, more

    def why_not(self, row: Row) -> str | None:
        """Why a row can't be trained on."""
        ids = row.get("input_ids") or row["prompt_ids"] + row["completion_ids"]
        if RowVersion.of(row) not in self._fresh.versions:
            return STALE
        if len(ids) > self._limit:
            return f"longer than {self._limit:,} tokens"
        if not 0 <= min(ids) <= max(ids) < self._vocabulary:
            return FOREIGN
        return self._more(row)


def kept(rows: Iterable[Row], fit: Fit) -> Kept:
    """The rows that can be trained on.

    They come in an order of their own, not in that in which runs ended: a seed is to give the same
    training again.
    """
    found = Kept()
    for row in rows:
        if (why := fit.why_not(row)) is not None:
            found.dropped[why] += 1
        else:
            found.rows.append(_completion(row))
    found.rows.sort(
        key=lambda row: (row.prompt_ids, row.completion_ids, row.logprobs, row.advantage)
    )
    return found


def broken(row: Row) -> str | None:
    """Why the log-probabilities of a row are none."""
    logprobs: Sequence[float] = row["logprobs"]
    whole = len(logprobs) == len(row["completion_ids"])
    return None if whole and all(map(_is_logprob, logprobs)) else BROKEN


def _is_logprob(value: float) -> bool:
    # Rounding may put a certain token a little above 0.
    return math.isfinite(value) and value < 0.01


def _completion(row: Row) -> Completion:
    if "input_ids" in row:
        ids, begins = array("i", row["input_ids"]), row["completion_mask"].index(1)
        return Completion(ids[:begins], ids[begins:])
    return Completion(
        array("i", row["prompt_ids"]),
        array("i", row["completion_ids"]),
        array("d", row["logprobs"]),
        row["advantage"],
        row["weight"],
    )
