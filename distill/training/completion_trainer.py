"""transformers' Trainer on completions as they were sampled. Imports torch: the extra ``train``."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import Trainer, TrainingArguments

from distill.training.completions import Completion, Padding
from distill.training.loss import weighted
from distill.training.weights import Weights


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """``each`` (B, T): the loss of each token; ``told``: what else to show of them, (B, T) too."""

    each: Tensor
    told: dict[str, Tensor] = field(default_factory=dict)


TokenLoss = Callable[[Tensor, Mapping[str, Tensor]], TokenLosses]
"""Of logits (B, T, V) of the completions of a batch, and the batch as ``Padding`` makes it."""


class CompletionTrainer(Trainer):  # type: ignore[misc]  # transformers is not followed
    """Descends on a loss of each sampled token, summed over tokens and weighed by row."""

    def __init__(
        self,
        weights: Weights,
        rows: Sequence[Completion],
        token_loss: TokenLoss,
        arguments: Mapping[str, Any],
    ) -> None:
        super().__init__(
            weights.model,
            TrainingArguments(**arguments, remove_unused_columns=False),
            data_collator=Padding(pad_id(weights.tokenizer)),
            train_dataset=rows,
            processing_class=weights.tokenizer,
        )
        self._token_loss = token_loss
        step_rows = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        weighed = sum(row.weight * len(row.completion_ids) for row in rows)
        self._tokens = step_rows * weighed / len(rows)
        self._told: dict[str, list[float]] = defaultdict(list)

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        logits = completion_logits(model, inputs)
        losses = self._token_loss(logits, inputs)
        for name, each in losses.told.items():
            self.tell(name, each[inputs["mask"]].mean().item())
        loss = weighted(losses.each, inputs["mask"], inputs["weights"], self._tokens)
        # Trainer divides by it, as if a loss were a mean of its rows.
        loss = loss * self.current_gradient_accumulation_steps
        return (loss, {"logits": logits}) if return_outputs else loss

    def tell(self, name: str, value: float) -> None:
        """Show a value beside the next loss, in the mean of those of its name."""
        self._told[name].append(value)

    def log(self, logs: dict[str, float], *args: Any, **kw: Any) -> None:
        """With the means of what was told since the last time."""
        told = {name: sum(each) / len(each) for name, each in self._told.items()}
        self._told.clear()
        super().log({**logs, **told}, *args, **kw)


def completion_logits(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """(B, T, V): of the places of a batch at which its completions were sampled."""
    read = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
    tokens = batch["mask"].shape[1]
    logits: Tensor = model(**read, use_cache=False, logits_to_keep=tokens + 1).logits
    return logits[:, :-1]


def completion_ids(batch: Mapping[str, Tensor]) -> Tensor:
    """(B, T): the token ids that were sampled, and padding."""
    return batch["input_ids"][:, -batch["mask"].shape[1] :]


def pad_id(tokenizer: Any) -> int:
    """What a row is filled with: any token does, as none looks at it."""
    found = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id or 0) if found is None else int(found)
