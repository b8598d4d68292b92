"""Completions as they were sampled, and batches of them.

A batch of B rows has prompts padded on the left and completions on the right, so that all
completions begin in one column and only theirs need logits::

    . . p p p | c c c E .        input_ids        (B, P + T)
                1 1 1 1 0        mask             (B, T)
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Completion:
    """What was read and sampled: token ids and, of those sampled, log-probabilities (nats).

    ``advantage`` and ``weight`` are those of an episode; a row of no reward has 0 and 1.
    """

    prompt_ids: "array[int]"
    completion_ids: "array[int]"
    logprobs: "array[float]" = field(default_factory=lambda: array("d"))
    advantage: float = 0.0
    weight: float = 1.0

    @property
    def tokens(self) -> int:
        """Of prompt and completion."""
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True, slots=True)
class Padding:
    """Makes a batch of rows: a collator of ``transformers.Trainer``."""

    pad_id: int

    def __call__(self, rows: Sequence[Completion]) -> "dict[str, Tensor]":
        """All (B, …): ``advantages`` and ``weights`` have one value a row."""
        import torch

        prompts = [list(row.prompt_ids) for row in rows]
        answers = [list(row.completion_ids) for row in rows]
        before, after = max(map(len, prompts)), max(map(len, answers))
        sides = [
            (before - len(prompt), after - len(answer))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        ids = [
            [self.pad_id] * left + prompt + answer + [self.pad_id] * right
            for prompt, answer, (left, right) in zip(prompts, answers, sides, strict=True)
        ]
        seen = torch.tensor(
            [
                [0] * left + [1] * (before + after - left - right) + [0] * right
                for left, right in sides
            ]
        )
        logged = [list(row.logprobs) + [0.0] * (after - len(row.logprobs)) for row in rows]
        return {
            "input_ids": torch.tensor(ids),
            "attention_mask": seen,
            # Of its own, not of the padded row: not every model has relative positions.
            "position_ids": (seen.cumsum(-1) - 1).clamp(min=0),
            "mask": seen[:, before:].bool(),
            "logged": torch.tensor(logged),
            "advantages": torch.tensor([row.advantage for row in rows]),
            "weights": torch.tensor([row.weight for row in rows]),
        }
