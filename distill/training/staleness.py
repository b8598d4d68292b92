"""Which version of the weights sampled a row, and whether it is the one in training.

A policy gradient holds for samples of the model that is trained. Rows of older versions are nearly
that: the clipped ratio to what was logged takes out what has changed too far.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from distill.errors import InputError
from distill.protocol.worker_link import ModelCard

COLUMNS = (
    "model",
    "adapter",
    "weights_version",
    "weights_hash",
    "adapter_hash",
    "tokenizer_hash",
)


@dataclass(frozen=True, slots=True)
class RowVersion:
    """Of one row: ``number`` counts the versions of an ``adapter`` (None: the model itself, 0)."""

    model: str
    adapter: str | None
    number: int
    weights_hash: str
    adapter_hash: str
    tokenizer_hash: str

    @staticmethod
    def of(row: Mapping[str, Any]) -> "RowVersion":
        """That of a row with ``COLUMNS``."""
        return RowVersion(*(row[name] for name in COLUMNS))

    def is_of(self, card: ModelCard) -> bool:
        """Whether these are the very weights of a card."""
        same = self.weights_hash == card.weights_hash
        return same and self.adapter_hash == card.adapter_hash

    def __str__(self) -> str:
        if self.adapter is None:
            return f"{self.model} ({_short(self.weights_hash)})"
        return f"version {self.number} of {self.adapter} ({_short(self.adapter_hash)})"


@dataclass(frozen=True, slots=True)
class Fresh:
    """Those whose rows are trained on."""

    versions: frozenset[RowVersion]

    @staticmethod
    def in_training(card: ModelCard, rows: Iterable[Mapping[str, Any]], staleness: int) -> "Fresh":
        """That of the card, and as many before it as ``staleness``: of its adapter, or the model.

        Raises InputError where there is no row of it, and for ids of another tokenizer.
        """
        found = Counter(map(RowVersion.of, rows))
        now = [each for each in found if each.is_of(card)]
        if not now:
            raise InputError(_none(card, found))
        if any(each.tokenizer_hash != card.tokenizer_hash for each in now):
            raise InputError(
                f"the rows have token ids of another tokenizer than that of {card.model}, the "
                "model in training: has a file of its tokenizer changed since?"
            )
        names = {each.adapter: each.number for each in sorted(now, key=lambda each: each.number)}
        stale = {
            each
            for each in found
            if each.weights_hash == card.weights_hash
            and each.tokenizer_hash == card.tokenizer_hash
            and any(_is_before(each, name, last, staleness) for name, last in names.items())
        }
        return Fresh(frozenset({*now, *stale}))


def _is_before(version: RowVersion, name: str | None, last: int, staleness: int) -> bool:
    is_line = version.adapter in {name, None}
    return is_line and 0 < last - version.number <= staleness


def _none(card: ModelCard, found: Counter[RowVersion]) -> str:
    if card.adapter is None:
        trained = f"{card.model} ({_short(card.weights_hash)})"
    else:
        trained = f"the adapter {card.adapter} ({_short(card.adapter_hash)}) of {card.model}"
    told = "; ".join(f"{count:,} of {each}" for each, count in found.most_common(5))
    return (
        f"no row was sampled by the weights in training, {trained}. The rows: {told}. Name the "
        "model and the --adapter that answered, or train on runs of this one"
    )


def _short(digest: str) -> str:
    return digest[:8] or "no hash"
