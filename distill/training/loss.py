"""The losses of ``rl`` and ``opd``, as functions of tensors.

B rows, T completion tokens at most, V tokens in the vocabulary; logarithms are natural. ``mask`` is
true on the tokens that were sampled; on padding all else may hold anything.

No trainer of TRL takes logged log-probabilities, given advantages and a weight for each row (1.16:
GRPOTrainer compares with what it recomputes; AsyncGRPOTrainer takes the first two, but runs on
fused GPU kernels only, and long answers outweigh short ones in it). So the clipped loss is here.
"""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

CLIP = 0.2
"""How far a token's probability may move from the logged one: Schulman and others, "Proximal Policy
Optimization Algorithms" (2017, arXiv 1707.06347, section 6.1)."""

FAR = 20.0
"""Nats: the ratio is 500 million then, or one by that."""


@dataclass(frozen=True, slots=True)
class Clipping:
    """How far a token's probability may move, by its advantage: [1 - ``low``, 1 + ``high``]."""

    low: float = CLIP
    high: float = CLIP


def sampled_logprobs(logits: "Tensor", ids: "Tensor") -> "Tensor":
    """(B, T): log-probability of each of ``ids`` (B, T) under ``logits`` (B, T, V)."""
    from trl.trainer.utils import selective_log_softmax

    found: Tensor = selective_log_softmax(logits.float(), ids)
    return found


def clipped(
    logprobs: "Tensor", logged: "Tensor", advantages: "Tensor", clipping: Clipping
) -> "Tensor":
    """(B, T): the loss of each token, of PPO's clipped ratio of the model to what was logged.

    All are (B, T), but ``advantages``, which may be (B, 1). The ratio is each token's own, not one
    of the whole completion (GSPO, arXiv 2507.18071): answers of workers are short and often hang on
    one token, above all on the one that ends them. Over the geometric mean of 30 tokens the end may
    become 200 times as likely before 0.2 is reached; a token's own ratio stops at 1.2.
    """
    import torch

    ratio = torch.exp(log_ratio(logprobs, logged))
    held = torch.clamp(ratio, 1 - clipping.low, 1 + clipping.high)
    return -torch.min(ratio * advantages, held * advantages)


def drift(logprobs: "Tensor", logged: "Tensor") -> "Tensor":
    """(B, T): estimates of the KL divergence of the model from the one that sampled, never below 0.

    The estimator k3 of Schulman, "Approximating KL Divergence" (2020), for samples of the model; as
    these are samples of the other one, each is weighted by the ratio of the two. In expectation
    value and gradient are then exact.
    """
    import torch

    away = log_ratio(logprobs, logged)
    ratio = torch.exp(away)
    return ratio * away - (ratio - 1)


def log_ratio(logprobs: "Tensor", logged: "Tensor") -> "Tensor":
    """(B, T): beyond ``FAR`` it stands still, as the gradient of what overflows is no number."""
    return (logprobs - logged).clamp(-FAR, FAR)


def reverse_kl(logits: "Tensor", teacher_logits: "Tensor") -> "Tensor":
    """(N,): KL divergence of the model from its teacher at each of N places, both (N, V).

    Over the whole vocabulary, and so without the noise of the one token that was sampled there; by
    TRL's own loss, of Agarwal and others, "On-Policy Distillation of Language Models" (2023, arXiv
    2306.13649, section 3), with beta 1.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental: its version is pinned
        from trl.experimental.gkd import GKDTrainer

    each: Tensor = GKDTrainer.generalized_jsd_loss(
        logits.float(), teacher_logits.float(), beta=1, reduction="none"
    )
    return each.sum(-1)


def weighted(each: "Tensor", mask: "Tensor", weights: "Tensor", tokens: float) -> "Tensor":
    """The scalar to descend on: ``each`` (B, T) summed over tokens, weighed by row (B,).

    ``tokens`` is a constant: rows of a step times the mean, over all rows of the data set, of
    weight times completion tokens. So each row pulls by its own weight, whichever rows stand beside
    it, and a long answer is not excused for its length (Liu and others, "Understanding R1-Zero-Like
    Training: A Critical Perspective", 2025, arXiv 2503.20783).
    """
    import torch

    # Not a product with the mask: what is not a number on padding would stay it.
    return (torch.where(mask, each, 0.0).sum(-1) * weights).sum() / tokens
