"""The tripwire: answers of the model in training, looked at before a checkpoint is written.

A reward that length is subtracted from was once earned best by saying nothing. Loss and reward of
logged rows do not show such a collapse, only what the model itself writes does. As it is looked at
first, a checkpoint that is there is one of a model that still answered.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distill.errors import InputError
from distill.training.collapse import CollapseError, Sample, collapse
from distill.training.fitting import write_whole

if TYPE_CHECKING:
    from distill.training.completion_trainer import CompletionTrainer


class Sampler(Protocol):
    """Who lets the model answer."""

    def sample(self, step: int) -> Sample:
        """The same prompts and the same noise each time."""


class Watch:
    """The samples of one training, kept in a file; the first is that of the model as it was."""

    def __init__(self, sampler: Sampler, path: Path, checkpoints: Path) -> None:
        self._sampler, self._path, self._checkpoints = sampler, path, checkpoints
        self._samples: list[Sample] = []

    def begin(self, step: int) -> None:
        """At this step a training begins or goes on. Raises InputError for a file that is none."""
        self._samples = [each for each in _read(self._path) if each.step <= step]
        if not self._samples:
            self._take(step)

    def look(self, step: int) -> Sample:
        """Sample. Raises CollapseError."""
        now = self._take(step)
        if (what := collapse(self._samples[0], now)) is not None:
            raise CollapseError(self._told(what, step))
        return now

    def _take(self, step: int) -> Sample:
        now = self._sampler.sample(step)
        self._samples.append(now)
        write_whole(self._path, [asdict(each) for each in self._samples])
        return now

    def _told(self, what: str, step: int) -> str:
        good = [each.step for each in self._samples[1:-1]]
        kept = (
            f"{self._checkpoints}/checkpoint-{good[-1]} is the last good one"
            if good
            else ("there is no good checkpoint before it")
        )
        return (
            f"the model collapsed by step {step}: {what}. {kept}; {self._path} has samples. Train "
            "with a lower --learning-rate, fewer --epochs, or an anchor (--kl 0.1), and look at "
            "what the rewards pay for"
        )


def _read(path: Path) -> list[Sample]:
    if not path.exists():
        return []
    try:
        return [Sample(**each) for each in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} can't be read, remove it: {error}") from error


def watched(trainer: "CompletionTrainer", watch: Watch) -> "CompletionTrainer":
    """The trainer, looking before each checkpoint, the last one included."""
    from transformers import TrainerCallback

    class Looking(TrainerCallback):  # type: ignore[misc]  # transformers is not followed
        def on_train_begin(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            watch.begin(state.global_step)

        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
            # transformers' own callback came first and has said whether one is due.
            if control.should_save:
                now = watch.look(state.global_step)
                for name in ("tokens", "empty", "cut", "earned"):
                    trainer.tell(f"sample/{name}", getattr(now, name))

    trainer.add_callback(Looking())
    return trainer
