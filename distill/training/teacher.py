"""A teacher: another model with the same tokenizer, or another adapter. Imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.errors import InputError
from distill.training.completion_trainer import TokenLosses, completion_logits
from distill.training.loss import reverse_kl
from distill.training.settings import TrainSettings
from distill.training.weights import Weights, load, rank_of


@dataclass(frozen=True, slots=True)
class Teacher:
    """``model`` is only asked."""

    model: Any

    @staticmethod
    def load(model: str | None, adapter: Path | None, student: Weights) -> "Teacher":
        """Raises InputError where it can't be used, or ids mean something else to it."""
        settings = TrainSettings(
            out=Path(),
            model=model,
            adapter=adapter,
            lora_rank=None if adapter is None else rank_of(adapter),
            device=student.device,
        )
        teacher = load(settings)
        _check_tokenizers(student, teacher)
        told = teacher.model.requires_grad_(requires_grad=False).eval()
        return Teacher(told.to(dtype=student.model.dtype))

    def loss(self, logits: Tensor, batch: Mapping[str, Tensor]) -> TokenLosses:
        """Of each token: how far the model (B, T, V) is from what the teacher says there."""
        with torch.no_grad():
            wanted = completion_logits(self.model, batch)
        mask = batch["mask"]
        # Beyond the tokens that both have, matrices are filled up, each to a size of its own.
        both = min(logits.shape[-1], wanted.shape[-1])
        each = reverse_kl(logits[mask][:, :both], wanted[mask][:, :both])
        return TokenLosses(torch.zeros_like(mask, dtype=each.dtype).masked_scatter(mask, each))


def _check_tokenizers(student: Weights, teacher: Weights) -> None:
    if student.card.tokenizer_hash == teacher.card.tokenizer_hash:
        return  # the same files; else those of two sizes of a family differ in what is no token
    ours, theirs = student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
    if ours == theirs:
        return
    differing = sum(theirs.get(token) != number for token, number in ours.items())
    raise InputError(
        f"{teacher.folder.name} can't teach {student.folder.name}: its tokenizer is another one, "
        f"{differing:,} of {len(ours):,} tokens have another id or none. A teacher reads the very "
        "ids that were sampled"
    )
