"""The steps of a trainer: told to people and to TensorBoard, saved, gone on with.

A checkpoint counts once its file ``WHOLE`` is there, which is written after all others: a training
that was killed goes on from the newest of these, and has as many steps in the end as one that was
not.
"""

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import MachineError
from distill.training.collapse import CollapseError
from distill.training.settings import TrainSettings
from distill.training.trained import Fitted, TrainProgress

if TYPE_CHECKING:
    from distill.training.weights import Weights

WHOLE = "whole.json"
OnProgress = Callable[[TrainProgress], object]
TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 8192}
"""Of the rows that are computed at once; the rest of a batch follows, before the step is taken."""
LARGE_WEIGHTS = 1_000_000_000
"""A model of so many weights has its activations computed twice: they would not fit."""
SHARE_SHOWN = 0.1
"""Of the steps, at the beginning and at the end: over them goes the mean of a loss."""


def arguments(settings: TrainSettings, weights: "Weights", longest_tokens: int) -> dict[str, Any]:
    """What every trainer is told: of ``transformers.TrainingArguments`` and its subclasses.

    ``longest_tokens`` is the length of the longest row.
    """
    limit = TOKENS_AT_ONCE[weights.device]
    rows = rows_at_once(settings.batch_rows, longest_tokens, limit)
    is_large = weights.model.num_parameters() >= LARGE_WEIGHTS
    on_cpu = weights.device == "cpu"
    return {
        "output_dir": str(settings.checkpoints),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": settings.batch_rows // rows,
        "gradient_checkpointing": is_large or longest_tokens > limit,
        "learning_rate": settings.learning_rate,
        "warmup_steps": 0.05,
        "lr_scheduler_type": "cosine",
        "num_train_epochs": settings.epochs,
        "max_steps": -1 if settings.max_steps is None else settings.max_steps,
        "save_strategy": "steps",
        "save_steps": settings.save_every_steps or SHARE_SHOWN,
        "save_total_limit": 2,  # the older one counts until the newer is whole
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",
        "seed": settings.seed,
        "data_seed": settings.seed,
        "use_cpu": on_cpu,
        "bf16": weights.is_mixed,
        "dataloader_pin_memory": not on_cpu,
        "report_to": "none",
        "disable_tqdm": True,
    }


def rows_at_once(batch_rows: int, longest_tokens: int, limit_tokens: int) -> int:
    """The largest share of a batch, in rows, that stays below the limit, padding counted."""
    fitting = [
        rows
        for rows in range(1, batch_rows + 1)
        if batch_rows % rows == 0 and rows * longest_tokens <= limit_tokens
    ]
    return max(fitting, default=1)


def fit(trainer: Any, settings: TrainSettings, on_progress: OnProgress | None = None) -> Fitted:
    """Take the steps that are left, from the newest whole checkpoint on.

    ``trainer`` is a ``transformers.Trainer`` with ``arguments``. Raises CollapseError where the
    loss is no longer a number, MachineError where memory runs out; the checkpoints stay, whatever
    stops it.
    """
    from transformers import PrinterCallback

    start = newest(settings.checkpoints)
    for half in _others(settings.checkpoints, start):
        shutil.rmtree(half)
    before_s = 0.0 if start is None else float(json.loads((start / WHOLE).read_bytes())["seconds"])
    trainer.remove_callback(PrinterCallback)  # stdout is for what comes of it
    listener = _listener(before_s, on_progress)
    trainer.add_callback(listener)
    trainer.add_callback(_bound())
    trainer.add_callback(_tensorboard(settings.tensorboard, start))
    _take_steps(trainer, start)
    state = trainer.state
    losses = [each["loss"] for each in state.log_history if "loss" in each]
    shown = max(1, round(len(losses) * SHARE_SHOWN))
    return Fitted(
        steps=state.global_step,
        first_loss=sum(losses[:shown]) / shown,
        last_loss=sum(losses[-shown:]) / shown,
        seconds=listener.seconds,
        tokens=int(state.num_input_tokens_seen),
    )


class _NoStepLeftError(Exception):
    """The checkpoint that is gone on from is that of the last step."""


def _take_steps(trainer: Any, start: Path | None) -> None:
    import torch

    try:
        with contextlib.suppress(_NoStepLeftError):
            trainer.train(resume_from_checkpoint=None if start is None else str(start))
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"the device's memory is full: fewer --batch-rows, or a lower --max-tokens ({error})"
        ) from error


def _bound() -> Any:
    """A callback that ends a training which goes on from its last step, once weights are loaded.

    Trainer would take a step before it looks at how many there are to be.
    """
    from transformers import TrainerCallback

    class Bound(TrainerCallback):  # type: ignore[misc]  # transformers is not followed
        def on_epoch_begin(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step >= state.max_steps:
                raise _NoStepLeftError

    return Bound()


def newest(checkpoints: Path) -> Path | None:
    """The checkpoint to go on from."""
    whole = [path.parent for path in checkpoints.glob(f"checkpoint-*/{WHOLE}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _others(checkpoints: Path, start: Path | None) -> list[Path]:
    """Checkpoints that are not gone on from: half written ones, and what those came after."""
    return [path for path in checkpoints.glob("checkpoint-*") if path != start]


def _listener(before_s: float, on_progress: OnProgress | None) -> Any:
    """A callback of transformers' that tells of each step, and marks checkpoints as whole."""
    from transformers import TrainerCallback

    class Listener(TrainerCallback):  # type: ignore[misc]  # transformers is not followed
        def __init__(self) -> None:
            self.seconds = before_s
            self._began_s = 0.0
            self._first_step = self._first_tokens = 0

        def on_train_begin(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            self._began_s = time.monotonic()
            self._first_step, self._first_tokens = state.global_step, state.num_input_tokens_seen

        def on_log(self, _args: Any, state: Any, *_: Any, logs: Any = None, **__: Any) -> None:
            here_s = time.monotonic() - self._began_s
            self.seconds = before_s + here_s
            loss = (logs or {}).get("loss")
            if loss is None:
                return
            if not math.isfinite(loss):
                raise CollapseError(
                    f"the loss is {loss} at step {state.global_step}: try a lower --learning-rate"
                )
            if on_progress is not None:
                on_progress(self._progress(state, loss, here_s))

        def _progress(self, state: Any, loss: float, here_s: float) -> TrainProgress:
            taken = state.global_step - self._first_step
            left = state.max_steps - state.global_step
            tokens = state.num_input_tokens_seen - self._first_tokens
            return TrainProgress(
                step=state.global_step,
                steps=state.max_steps,
                loss=loss,
                tokens_per_s=float(tokens) / max(here_s, 1e-9),
                elapsed_s=self.seconds,
                left_s=left * here_s / taken if taken else None,
            )

        def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_whole(folder / WHOLE, {"step": state.global_step, "seconds": self.seconds})

    return Listener()


def _tensorboard(folder: Path, start: Path | None) -> Any:
    """Events as transformers writes them; those after the checkpoint are not shown again."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    step = 0 if start is None else int(start.name.rpartition("-")[2])
    return TensorBoardCallback(SummaryWriter(str(folder), purge_step=step + 1, flush_secs=5))


def write_whole(path: Path, value: Any) -> None:
    """A JSON file that is there whole or not at all. Raises OSError."""
    part = path.with_name(f".{path.name}.part")
    with os.fdopen(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
