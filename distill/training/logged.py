"""The worker calls behind the rows of a data set: a few of them, to be held against the weights.

Drawn by a seed among those of which most can be compared (``SAYS_MOST``), so the same data and
weights give the same calls.
"""

import json
import random
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from distill.errors import InputError
from distill.protocol.worker_link import ModelCard
from distill.traces import records
from distill.traces.reading import calls_in
from distill.training.data import DataSet
from distill.training.replay import spoken

EXACT = ("episodes", "token-sft")
"""Formats whose rows have the ids that were read and sampled."""
_GONE = (
    "the rows of {} can't be held against the weights: they {}. Bring the logs back, or train "
    "unchecked with --no-parity"
)
Kin = Literal["version", "model", "other"]
"""Of the version that is loaded; of its model with another adapter; of another model."""
Says = Literal["values", "ids", "text"]
SAYS_MOST: tuple[tuple[Kin, Says], ...] = (
    ("version", "values"),
    ("version", "ids"),
    ("model", "ids"),
    ("version", "text"),
    ("model", "text"),
    ("other", "ids"),
    ("other", "text"),
)
"""Log-probabilities can be held against the weights that gave them, and ids against the tokenizer
and template, which all versions of a model have; without ids the template's text is left."""


def kin(model: records.Model, card: ModelCard) -> Kin:
    """By the hashes. A model that says no hash is another one."""
    if not model.weights_hash or model.weights_hash != card.weights_hash:
        return "other"
    return "version" if model.adapter_hash == card.adapter_hash else "model"


def chosen(data: DataSet, card: ModelCard, rows: int, seed: int) -> list[records.Call]:
    """At most ``rows`` calls, all of the rank that says most; none of a format without calls.

    Raises InputError where they are not in the logs that the data set was made from.
    """
    if not _has_calls(data):
        return []
    drawn: dict[int, _Draw] = {}
    for call in _calls(data):
        whose = kin(call.model, card)
        rank = SAYS_MOST.index((whose, _says(call, whose)))
        drawn.setdefault(rank, _Draw(rows, seed)).offer(call)
    if not drawn:
        raise InputError(_GONE.format(data.folder, "are not in the logs that they were made from"))
    return drawn[min(drawn)].kept


def _says(call: records.Call, whose: Kin) -> Says:
    """What of a call can be compared with the loaded weights."""
    if not call.prompt_token_ids or not call.token_ids:
        return "text"
    return "values" if whose == "version" and spoken(call) is not None else "ids"


class _Draw:
    """An even draw from a stream of unknown length (Vitter's algorithm R)."""

    def __init__(self, size: int, seed: int) -> None:
        self.kept: list[records.Call] = []
        self._size, self._seen, self._random = size, 0, random.Random(seed)

    def offer(self, call: records.Call) -> None:
        self._seen += 1
        if len(self.kept) < self._size:
            self.kept.append(call)
        elif (place := self._random.randrange(self._seen)) < self._size:
            self.kept[place] = call


def _has_calls(data: DataSet) -> bool:
    return "call" in next(iter(data.rows()), {})


def _calls(data: DataSet) -> Iterator[records.Call]:
    """The calls of the rows, one in memory at a time, from the logs that they were made from.

    Rows with token ids say enough by themselves, where the logs are elsewhere.
    """
    folders = data.logs
    gone = [each for each in folders if not (each / records.WORKER_LOG).is_file()]
    if (gone or not folders) and data.format in EXACT:
        yield from map(_of_row, data.rows())
        return
    if gone:
        raise InputError(_GONE.format(data.folder, f"are of logs that are not at {gone[0]}"))
    wanted = {row["call"] for row in data.rows("call")}
    for folder in folders:
        for call in calls_in(folder, []):
            if call.id in wanted:
                yield call


def _of_row(row: dict[str, Any]) -> records.Call:
    """A call whose texts nobody knows."""
    if "prompt_ids" in row:
        prompt, ids = row["prompt_ids"], row["completion_ids"]
    else:
        begins = row["completion_mask"].index(1)
        prompt, ids = row["input_ids"][:begins], row["input_ids"][begins:]
    return records.Call(
        t=0.0,
        run=row["run"],
        producer=records.Producer("driver", "", 0),
        id=row["call"],
        turn=0,
        cell=0,
        call=0,
        item=0,
        function="",
        attempt=1,
        prompt="",
        response=None,
        finish_reason=row["finish_reason"],
        usage=records.TokenUsage(len(prompt), len(ids)),
        sampling=json.loads(row.get("sampling", "{}")),
        model=msgspec.convert(
            {name: row[name] for name in records.Model.__struct_fields__ if name in row},
            records.Model,
        ),
        prompt_token_ids=tuple(prompt),
        token_ids=tuple(ids),
        logprobs=tuple(row["logprobs"]) if "logprobs" in row else None,
    )
