"""Supervised fine-tuning: the model learns to write the completions of the rows."""

from pathlib import Path
from typing import Any

from distill.errors import InputError, NoRowsError
from distill.training.course import train as train_by
from distill.training.data import DataSet
from distill.training.fitting import OnProgress, arguments
from distill.training.method import Made, Method
from distill.training.settings import TrainSettings
from distill.training.tokens import tokenised
from distill.training.trained import Trained
from distill.training.weights import Weights

EXACT = "token-sft"


class Sft(Method):
    """TRL's SFTTrainer, on rows that are tokens already."""

    name = "sft"
    formats = ("worker-sft", "worker-sft-text", EXACT, "supervisor-turns")

    def trainer(self, weights: Weights, data: DataSet, settings: TrainSettings) -> Made:
        """Cross entropy of the completions, each token of a batch weighing the same."""
        from datasets import Dataset
        from trl import SFTConfig

        from distill.training.sft_trainer import CompletionSFTTrainer

        is_exact = data.format == EXACT
        if is_exact:
            _check_tokenizer(data, weights)
        columns = ("input_ids", "completion_mask") if is_exact else ("prompt", "completion")
        limit = min(settings.max_tokens or weights.card.window_tokens, weights.card.window_tokens)
        made = tokenised(data.rows(*columns), weights.tokenizer, limit)
        told = [f"{count:,} rows dropped: {why}" for why, count in made.dropped.most_common()]
        if not made.rows:
            raise NoRowsError(f"no row is left to train on: {'; '.join(told)}")
        # Not in the order in which runs ended: a seed is to give the same training again.
        made.rows.sort(key=lambda row: (row["input_ids"], row["labels"]))
        given: dict[str, Any] = arguments(settings, weights, made.longest)
        trainer = CompletionSFTTrainer(
            weights.model,
            SFTConfig(**given, max_length=None),
            train_dataset=Dataset.from_list(made.rows),
            processing_class=weights.tokenizer,
        )
        return Made(trainer, len(made.rows), told)


def _check_tokenizer(data: DataSet, weights: Weights) -> None:
    """Ids mean something to their own tokenizer only."""
    row = next(data.rows("tokenizer_hash", "model"))
    if row["tokenizer_hash"] != weights.card.tokenizer_hash:
        raise InputError(
            f"the rows have token ids of the tokenizer of {row['model']}, which is not that of "
            f"{weights.folder.name}: name their --model, or leave out --exact"
        )


def train(data: Path, settings: TrainSettings, on_progress: OnProgress | None = None) -> Trained:
    """Fine-tune on a data set of `distill export`. Raises InputError."""
    return train_by(Sft(), data, settings, on_progress)
