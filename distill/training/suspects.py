"""Why log-probabilities differ: each suspect is put in the place of what was assumed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from distill.protocol.worker_link import ModelCard
from distill.traces import records
from distill.training.bounds import FLOAT32, HALF, Bound
from distill.training.forced import View
from distill.training.replay import ALL_VIEWS, Difference, Spoken, differences

if TYPE_CHECKING:
    from distill.training.weights import Weights

Cause = Literal[
    "tokenizer",
    "template",
    "weights",
    "adapter",
    "data type",
    "log-probability mode",
    "nothing to compare",
]
Found = tuple[Cause, str, list[str]]
WHY: Mapping[str, str] = {
    "tokenizer": "It reads or writes other token ids than the log has",
    "template": "Messages become another prompt than the one that was answered",
    "weights": "The same tokens have other probabilities under the weights that were loaded",
    "adapter": "The answers are of another version of the adapter than the one that was loaded",
}
REMEDIES: Mapping[Cause, str] = {
    "tokenizer": "Name the --model that answered, with its own tokenizer",
    "template": "Name the --model that answered; a template that its workers were started with "
    "(--chat-template) belongs into its folder, as chat_template.jinja",
    "weights": "Name the --model that answered",
    "adapter": "Name the version that answered by --adapter, or take the rows of the one you name "
    "(--where 'call.weights_version == N')",
    "data type": "Serve and train the weights in one type, or take rows that were sampled with the "
    "weights as they are now",
    "log-probability mode": "Take rows whose logprobs_mode is what they say; workers of distill "
    "record raw_logprobs",
    "nothing to compare": "Record with --record ids+logprobs",
}
NAMED: Mapping[View, str] = {
    "raw_logprobs": "the model's own (raw_logprobs)",
    "tempered": "those after temperature, without the sampling filters",
    "processed_logprobs": "those after temperature and sampling filters (processed_logprobs)",
}
PARTS: Mapping[str, tuple[str, ...]] = {
    "tokenizer": ("tokenizer_hash",),
    "template": ("template_hash", "tokenizer_hash"),
}
OF_WEIGHTS = ("weights_hash", "adapter", "weights_version", "adapter_hash", "dtype")
SHOWN_CHARS = 12


def hashes(card: ModelCard, model: records.Model, cause: str = "weights") -> list[str]:
    """What the log says of the part to blame, and what was loaded."""
    return [
        f"{name} {_short(getattr(model, name))} in the log, {_short(getattr(card, name))} loaded"
        for name in PARTS.get(cause, OF_WEIGHTS)
        if getattr(model, name) != getattr(card, name)
    ]


def likely(
    weights: "Weights", models: Sequence[records.Model], rows: Sequence[Spoken], bound: Bound
) -> Found:
    """What is most likely to blame. The weights may be rounded afterwards."""
    views = differences(weights.model, rows, ALL_VIEWS)
    found = views[None]
    model = next((each for each in models if hashes(weights.card, each)), models[0])
    evidence = [f"|Δ| {found} (bound: {bound})", *hashes(weights.card, model)]
    evidence += [f"if they were {NAMED[view]}: {views[view]}" for view in ALL_VIEWS]
    return (
        _mode(rows, views, bound, evidence)
        or _bare(weights, rows, bound, evidence)
        or _type(weights, model, rows, found, evidence, bound=bound)
        or version(weights.card, model, evidence)
    )


def version(card: ModelCard, model: records.Model, evidence: list[str]) -> Found:
    """By the hashes: another adapter of the same model, or another model."""
    is_same = model.weights_hash == card.weights_hash and model.adapter_hash != card.adapter_hash
    cause: Cause = "adapter" if is_same else "weights"
    return cause, WHY[cause], evidence


def _mode(
    rows: Sequence[Spoken],
    views: Mapping[View | None, Difference],
    bound: Bound,
    evidence: list[str],
) -> Found | None:
    nearest = min(ALL_VIEWS, key=lambda view: views[view].mean)
    if not bound.holds(views[nearest]):
        return None
    said = " and ".join(sorted({row.declared for row in rows}))
    return "log-probability mode", f"Said to be {said}, they are {NAMED[nearest]}", evidence


def _bare(
    weights: "Weights", rows: Sequence[Spoken], bound: Bound, evidence: list[str]
) -> Found | None:
    """Whether they are of the model without the adapter."""
    if not weights.is_adapter:
        return None
    with weights.model.disable_adapter():
        found = differences(weights.model, rows)[None]
    evidence.append(f"without the adapter that was loaded: {found}")
    if not bound.holds(found):
        return None
    return "adapter", "The answers are the model's own, without the adapter", evidence


def _type(
    weights: "Weights",
    model: records.Model,
    rows: Sequence[Spoken],
    found: Difference,
    evidence: list[str],
    *,
    bound: Bound,
) -> Found | None:
    """Whether one side has rounded what the other has not. Rounds the weights."""
    if bound != FLOAT32 or not HALF.holds(found):
        return None
    was_rounded = _is_rounded(weights.model)
    rounded = _rounded(weights.model, rows)
    evidence.append(f"computed in bfloat16: {rounded}")
    if was_rounded and model.weights_hash != weights.card.weights_hash:
        return "data type", "The weights that were loaded are rounded to bfloat16", evidence
    # Noise of other weights would add to that of rounding.
    if _are_the_same(weights.card, model) or rounded.mean < found.mean:
        return "data type", "The answers were computed in bfloat16, not in float32", evidence
    return None


def _are_the_same(card: ModelCard, model: records.Model) -> bool:
    return (model.weights_hash, model.adapter_hash) == (card.weights_hash, card.adapter_hash)


def _is_rounded(model: Any) -> bool:
    """Whether bfloat16 holds all weights of the model itself as they are."""
    import torch

    own = (weight for name, weight in model.named_parameters() if "lora_" not in name)
    return all(torch.equal(weight, weight.bfloat16().to(weight.dtype)) for weight in own)


def _rounded(model: Any, rows: Sequence[Spoken]) -> Difference:
    import torch

    return differences(model.to(torch.bfloat16), rows)[None]


def _short(value: object) -> str:
    text = "none" if value in (None, "") else str(value)
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "…"
