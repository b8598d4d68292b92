"""What a model makes of tokens that were sampled before: teacher-forced log-probabilities, in nats.

T completion tokens, V tokens in the vocabulary. ``view`` says of which distribution they are:
``raw_logprobs`` of the model's own, ``processed_logprobs`` of that which vLLM draws from, after
penalties, temperature, min-p, top-k and top-p. That is the order of vLLM's sampler, and these are
its rules (vLLM 0.32, ``v1/sample/sampler.py``, ``v1/sample/ops/topk_topp_sampler.py``,
``model_executor/layers/utils.py``); ``tempered`` leaves the filters out. What a schema or a list of
choices excludes is excluded before all of these, from the raw values too (``apply_grammar_bitmask``
in ``v1/worker/gpu_model_runner.py``): those of a constrained answer are the model's in no view.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from distill.protocol.worker_link import Sampling

if TYPE_CHECKING:
    from torch import Tensor

View = Literal["raw_logprobs", "processed_logprobs", "tempered"]
GREEDY_BELOW = 1e-5
LEAST_TEMPERATURE = 0.01
"""vLLM's: below the first it takes the likeliest token; it divides by no less than the other."""
CONSTRAINTS = ("schema", "choices", "regex")


def is_constrained(sampling: Mapping[str, Any]) -> bool:
    """Whether a log's sampling excludes some texts, so that no log-probability is the model's."""
    return any(sampling.get(name) not in (None, (), []) for name in CONSTRAINTS)


@contextmanager
def at_rest(model: Any) -> Iterator[None]:
    """Without dropout and gradients; afterwards as before."""
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():  # what a model keeps of a forward pass is trained with later
            yield
    finally:
        model.train(was_training)


def completion_logits(model: Any, prompt_ids: Sequence[int], ids: Sequence[int]) -> "Tensor":
    """(T, V), float32: from which each of ``ids`` is drawn, after the prompt and those before."""
    import torch

    read = torch.tensor([[*prompt_ids, *ids]], device=model.device)
    logits: Tensor = model(input_ids=read, logits_to_keep=len(ids) + 1, use_cache=False).logits
    return logits[0, -len(ids) - 1 : -1].float()


def logprobs(
    logits: "Tensor", prompt_ids: Sequence[int], ids: Sequence[int], sampling: Sampling, view: View
) -> "Tensor":
    """(T,): of ``ids`` under ``logits`` (T, V)."""
    import torch

    sampled = torch.tensor(ids, device=logits.device)[:, None]
    if view != "raw_logprobs":
        logits = _penalised(logits, prompt_ids, ids, sampling)
        if sampling.temperature >= GREEDY_BELOW:
            logits = logits / max(sampling.temperature, LEAST_TEMPERATURE)
            if view == "processed_logprobs":
                # It was drawn, so it passed: at the edge of a filter rounding may say otherwise.
                kept = _kept(logits, sampling).scatter(-1, sampled, value=True)
                logits = logits.masked_fill(~kept, -torch.inf)
    return logits.log_softmax(-1).gather(-1, sampled)[:, 0]


def _penalised(
    logits: "Tensor", prompt_ids: Sequence[int], ids: Sequence[int], sampling: Sampling
) -> "Tensor":
    """Row t knows the prompt and the first t of ``ids``."""
    import torch

    repetition, flat = sampling.repetition_penalty, sampling.presence_penalty
    if repetition == 1 and not flat and not sampling.frequency_penalty:
        return logits
    logits = logits.clone()
    said: Counter[int] = Counter()
    for row, sampled in zip(logits, ids, strict=True):
        seen = torch.tensor(sorted({*prompt_ids, *said}), device=row.device)
        found = row[seen]
        row[seen] = torch.where(found > 0, found / repetition, found * repetition)
        for token, times in said.items():
            row[token] -= flat + sampling.frequency_penalty * times
        said[sampled] += 1
    return logits


def _kept(logits: "Tensor", sampling: Sampling) -> "Tensor":
    """(T, V): what min-p, top-k and top-p leave of tempered logits, in this order."""
    import torch

    probabilities = logits.softmax(-1)
    kept = probabilities >= probabilities.amax(-1, keepdim=True) * sampling.min_p
    if 0 < sampling.top_k < logits.shape[-1]:
        left = logits.masked_fill(~kept, -torch.inf)
        kept &= logits >= left.topk(sampling.top_k, dim=-1).values[:, -1:]
    if sampling.top_p < 1:
        left = logits.masked_fill(~kept, -torch.inf)
        ordered, places = left.sort(dim=-1)
        mass = ordered.softmax(-1).cumsum(-1)
        is_out = mass <= 1 - sampling.top_p
        is_out[:, -1] = False
        kept &= ~torch.zeros_like(is_out).scatter(-1, places, is_out)
    return kept
