"""Reinforcement learning on logged episodes: what earned more than its group becomes likelier."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import InputError, NoRowsError
from distill.training.answering import ANSWERS, Answering, Prompt, prompts
from distill.training.course import train as train_by
from distill.training.data import DataSet
from distill.training.fitting import OnProgress, arguments
from distill.training.forced import is_constrained
from distill.training.loss import Clipping, clipped, drift, log_ratio, sampled_logprobs
from distill.training.method import Made, Method
from distill.training.sampled_rows import Fit, Kept, broken, kept
from distill.training.settings import TrainSettings
from distill.training.staleness import COLUMNS, Fresh
from distill.training.trained import Trained
from distill.training.watch import Watch, watched

if TYPE_CHECKING:
    from torch import Tensor

    from distill.training.completion_trainer import TokenLosses
    from distill.training.weights import Weights

RAW = "raw_logprobs"
PROCESSED = (
    "log-probabilities after temperature and filters, which are not the model's own (serve with "
    "raw_logprobs, vLLM's default)"
)
HELD_FROM_GROUPS = 40
"""With so many groups a tenth of them is held back, to watch the model on. With fewer it is watched
on prompts that it is trained on: a collapse shows there just as well."""
CONSTRAINED = (
    "answers to a schema, choices or a regex, whose log-probabilities are not the model's own"
)
EQUAL = 1e-6
"""Rewards that differ by less are equal."""
NARROWING = (
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
SAMPLES = "samples.json"


@dataclass(frozen=True, slots=True)
class Rl(Method):
    """PPO's clipped ratio to the logged log-probabilities, times the logged advantage.

    ``clipping`` bounds the ratio. ``kl`` weighs the anchor, the divergence from the version that
    sampled (0: none). ``staleness`` is how many versions before the one in training rows may be.
    """

    clipping: Clipping = field(default_factory=Clipping)
    kl: float = 0.0
    staleness: int = 0

    name = "rl"
    formats = ("episodes",)
    on_policy = True

    def options(self) -> dict[str, Any]:
        return {
            "clip_low": self.clipping.low,
            "clip_high": self.clipping.high,
            "kl": self.kl,
            "staleness": self.staleness,
        }

    def check_options(self) -> None:
        """Raise InputError for options out of range."""
        low, high = self.clipping.low, self.clipping.high
        if not (0 < low < 1 and 0 < high < math.inf):
            raise InputError(f"--clip is above 0 and below 1, not {low:g} and {high:g}")
        if not 0 <= self.kl < math.inf:
            raise InputError(f"--kl is at least 0, not {self.kl:g}")
        if self.staleness < 0:
            raise InputError(f"--staleness is at least 0, not {self.staleness}")

    def check(self, data: DataSet, settings: TrainSettings) -> None:  # noqa: ARG002  (contract)
        """Raise InputError for rows of which nothing can be learnt."""
        if not any(row["logprobs_mode"] == RAW for row in data.rows("logprobs_mode")):
            raise InputError(f"the rows have {PROCESSED}")
        _check_differ(row["advantage"] for row in data.rows("advantage"))

    def trainer(self, weights: "Weights", data: DataSet, settings: TrainSettings) -> Made:
        """Its rows are those that the version in training has sampled, or stale ones."""
        from distill.training.completion_trainer import CompletionTrainer

        fresh = Fresh.in_training(weights.card, data.rows(*COLUMNS), self.staleness)
        fit = Fit(fresh, weights, settings, _why_not)
        held = held_groups(data, settings.seed)
        found = kept((row for row in data.rows() if row["group"] not in held), fit)
        told = [*found.told(), *_unlike(data)]
        _check_differ(row.advantage for row in found.rows)
        if equal := self._leave_equal(found):
            told.append(f"{equal:,} rows left out: they earned as much as all of their group")
        given = arguments(settings, weights, found.longest)
        trainer = CompletionTrainer(weights, found.rows, self._loss, given)
        watch = Watch(
            Answering(weights, _asked(data, fit, held, weights.tokenizer), settings.seed),
            settings.out / SAMPLES,
            settings.checkpoints,
        )
        made = Made(watched(trainer, watch), len(found.rows), told)
        if not (settings.out / SAMPLES).exists():  # else it goes on
            made = replace(made, at_first=f"{ANSWERS} answers of the model as it is (tripwire)")
        return made

    def _leave_equal(self, found: Kept) -> int:
        """Leave out, and count, rows of no advantage: without the anchor they have no gradient."""
        before = len(found.rows)
        if not self.kl:
            found.rows = [row for row in found.rows if abs(row.advantage) > EQUAL]
        return before - len(found.rows)

    def _loss(self, logits: "Tensor", batch: "Mapping[str, Tensor]") -> "TokenLosses":
        from distill.training.completion_trainer import TokenLosses, completion_ids

        logprobs = sampled_logprobs(logits, completion_ids(batch))
        logged, advantages = batch["logged"], batch["advantages"][:, None]
        each = clipped(logprobs, logged, advantages, self.clipping)
        away = drift(logprobs, logged)
        if self.kl:
            each = each + self.kl * away
        ratio = log_ratio(logprobs.detach(), logged).exp()
        outside = (ratio < 1 - self.clipping.low) | (ratio > 1 + self.clipping.high)
        return TokenLosses(each, {"drift": away.detach(), "outside": outside.float()})


def _check_differ(advantages: Iterable[float]) -> None:
    if not any(abs(each) > EQUAL for each in advantages):
        raise NoRowsError(
            "all rewards of a group are equal, so there is nothing to learn: ask each question "
            "several times (attempts of a task) at a temperature, score the runs, and take all of "
            "them (--select all)"
        )


def held_groups(data: DataSet, seed: int) -> set[str]:
    """A tenth of the groups, by the seed and their names; none of a few."""
    groups = {row["group"] for row in data.rows("group")}
    if len(groups) < HELD_FROM_GROUPS:
        return set()
    drawn = sorted(groups, key=lambda name: sha256(f"{seed} {name}".encode()).digest())
    return set(drawn[: len(groups) // 10])


def _asked(data: DataSet, fit: Fit, held: set[str], tokenizer: Any) -> list[Prompt]:
    """Prompts of what is held back; of all groups where nothing fitting is."""

    def of(groups: set[str]) -> list[Prompt]:
        rows = (row for row in data.rows() if not groups or row["group"] in groups)
        return prompts((row for row in rows if fit.why_not(row) is None), tokenizer)

    return of(held) or of(set())


def _why_not(row: Mapping[str, Any]) -> str | None:
    if row["logprobs_mode"] != RAW:
        return PROCESSED
    return CONSTRAINED if is_constrained(json.loads(row["sampling"])) else broken(row)


def _unlike(data: DataSet) -> list[str]:
    """A word on rows that were drawn from another distribution than the model's own."""
    told = (json.loads(row["sampling"]) for row in data.rows("sampling"))
    drawn = [each for each in told if not is_constrained(each)]
    # What is not in it has its default: a temperature is 0 then.
    unlike = sum(
        each.get("temperature") != 1 or any(name in each for name in NARROWING) for each in drawn
    )
    if not unlike:
        return []
    what = "the model's own distribution (temperature 1, no filters)"
    return [
        f"{unlike:,} of {len(drawn):,} rows were not drawn from {what}: the gradient is off by that"
    ]


def train(
    data: Path,
    settings: TrainSettings,
    on_progress: OnProgress | None = None,
    *,
    method: Rl | None = None,
) -> Trained:
    """Train on `episodes` of `distill export`. Raises InputError, and CollapseError where the model
    in training stops answering.
    """
    return train_by(method or Rl(), data, settings, on_progress)
