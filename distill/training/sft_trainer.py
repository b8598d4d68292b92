"""TRL's SFTTrainer, with a loss for CPUs. Imports torch and TRL: the extra ``train``."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from trl import SFTTrainer


class CompletionSFTTrainer(SFTTrainer):  # type: ignore[misc]  # TRL is not followed
    """The same loss, but on a CPU the output matrix is applied where something is learnt only.

    TRL 1.16 leaves the other places out on a GPU, and applies it to every token elsewhere
    (``trl.trainer.utils.add_fused_lm_head``). Of a small model's work that is a large part: a
    quarter of SmolLM2-135M's multiplications.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if self.args.device.type != "cpu" or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"][:, 1:]
        places = (labels != -100).any(dim=0).nonzero().flatten()
        logits = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
            logits_to_keep=places,
        ).logits
        summed = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), labels[:, places].flatten(), reduction="sum"
        )
        tokens = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        return summed / tokens
