"""The compression objective: what a worker's answer earns, by the final answer and its length.

A run's reward is its score. Of what the workers of a right run said, the shorter earns more::

    reward = score * (1 - length_weight * sigmoid((tokens - mean) / deviation))

with mean and standard deviation over the calls of the runs that answered the same question, each
run counted once and by its score. For scores of 0 and 1 this is the objective of Arora and
Zanette, "Training Language Models to Reason Efficiently" (2025, arXiv 2502.04463, section 4), with
a run of several calls in the place of one response.

The score multiplies: a wrong run earns 0 however little was said, so saying nothing is never a
way to earn. With a penalty that is subtracted instead, workers learnt to say nothing.
"""

import math
from dataclasses import dataclass

LENGTH_WEIGHT = 0.2
"""The most that length takes of a reward, as a share. Below 1: right and long beats wrong."""


@dataclass(slots=True)
class Lengths:
    """Tokens of the completions in one group: mean and deviation, weighted, in one pass.

    After West, "Updating mean and variance estimates" (1979).
    """

    weight: float = 0.0
    mean: float = 0.0
    _squares: float = 0.0

    def add(self, tokens: int, weight: float) -> None:
        """Count a completion of ``tokens`` tokens, ``weight`` times."""
        if weight <= 0:
            return
        self.weight += weight
        away = tokens - self.mean
        self.mean += away * weight / self.weight
        self._squares += weight * away * (tokens - self.mean)

    @property
    def deviation(self) -> float:
        """The standard deviation, in tokens; 0 where all are equally long."""
        return math.sqrt(max(0.0, self._squares / self.weight)) if self.weight else 0.0


def reward(
    score: float, tokens: int, lengths: Lengths, length_weight: float = LENGTH_WEIGHT
) -> float:
    """From 0 to 1: ``score`` (0 to 1), less at most the share ``length_weight`` of it.

    ``tokens`` is the length of a completion, ``lengths`` are those of its group.
    """
    deviation = lengths.deviation
    # Equal lengths: nothing to tell apart.
    away = (tokens - lengths.mean) / deviation if deviation else 0.0
    return score * (1 - length_weight * _sigmoid(away))


def _sigmoid(value: float) -> float:
    return (1 + math.tanh(value / 2)) / 2
