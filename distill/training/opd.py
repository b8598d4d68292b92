"""On-policy distillation: the model's own answers, and what a teacher would have said instead.

At each token of a logged answer the teacher's distribution over the vocabulary is the target: the
reverse KL divergence from it is descended on. The other way, a policy gradient with the teacher's
log-probability of the sampled token as reward, needs only that one number of a teacher, but learns
far slower: on a tiny model (docs/training.md has the figures) it learnt nothing in the steps in
which this one took away four fifths of the divergence, at the same cost a step.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import InputError
from distill.training.course import train as train_by
from distill.training.data import DataSet
from distill.training.fitting import OnProgress, arguments
from distill.training.method import Made, Method
from distill.training.sampled_rows import Fit, kept
from distill.training.settings import TrainSettings, adapter_sha256
from distill.training.staleness import COLUMNS, Fresh
from distill.training.trained import Trained
from distill.training.weights import rank_of

if TYPE_CHECKING:
    from distill.training.weights import Weights


@dataclass(frozen=True, slots=True)
class Opd(Method):
    """``teacher`` is a model's folder (None: the model in training), ``teacher_adapter`` a LoRA
    adapter of it; one of the two is needed. ``staleness`` is as of ``Rl``.
    """

    teacher: str | None = None
    teacher_adapter: Path | None = None
    staleness: int = 0

    name = "opd"
    formats = ("token-sft",)
    on_policy = True

    def options(self) -> dict[str, Any]:
        adapter = self.teacher_adapter
        return {
            "teacher": self.teacher,
            "teacher_adapter_sha256": adapter and adapter_sha256(adapter),
            "staleness": self.staleness,
        }

    def check_options(self) -> None:
        """Raise InputError where no teacher is named, or its adapter is none."""
        if self.teacher is None and self.teacher_adapter is None:
            raise InputError("name who teaches: --teacher MODEL, --teacher-adapter DIR, or both")
        if self.teacher_adapter is not None:
            rank_of(self.teacher_adapter)

    def trainer(self, weights: "Weights", data: DataSet, settings: TrainSettings) -> Made:
        """Its rows are those that the version in training has sampled, or stale ones."""
        from distill.training.completion_trainer import CompletionTrainer
        from distill.training.teacher import Teacher

        fresh = Fresh.in_training(weights.card, data.rows(*COLUMNS), self.staleness)
        found = kept(data.rows(), Fit(fresh, weights, settings))
        told = found.told()
        teacher = Teacher.load(self.teacher or settings.model, self.teacher_adapter, weights)
        given = arguments(settings, weights, found.longest)
        trainer = CompletionTrainer(weights, found.rows, teacher.loss, given)
        return Made(trainer, len(found.rows), told)


def train(
    data: Path, settings: TrainSettings, on_progress: OnProgress | None = None, *, method: Opd
) -> Trained:
    """Train on `token-sft` of `distill export`, next to a teacher. Raises InputError."""
    return train_by(method, data, settings, on_progress)
