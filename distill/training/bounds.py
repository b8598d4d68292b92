"""How far two programs may be apart that compute the same: the bounds of the parity gate.

They leave room around what was measured: log-probabilities that vLLM 0.32 had logged on a CPU, of
SmolLM2-135M at several temperatures, filters and penalties, and what transformers 5.17 made of the
same ids. Largest and mean |Δ|, in nats::

    float32  | float32   745 tokens 3.2e-5, 5.3e-6; with an adapter 2.6e-5, 5.4e-6;
                                    processed_logprobs 2.7e-5, 4.8e-6
    bfloat16 | bfloat16  144 tokens 0.25, 0.042; with an adapter 0.26, 0.047
    bfloat16 | float32   192 tokens 0.30, 0.032; with an adapter 0.13, 0.030
    float32  | bfloat16  745 tokens 0.28, 0.036
"""

from dataclasses import dataclass

from distill.training.replay import Difference


@dataclass(frozen=True, slots=True)
class Bound:
    """The most that log-probabilities may differ, the largest and on average, in nats."""

    worst: float
    mean: float

    def holds(self, found: Difference) -> bool:
        """Whether a difference is within it."""
        return found.worst <= self.worst and found.mean <= self.mean

    def __str__(self) -> str:
        return f"{self.worst:g} and {self.mean:g}"


FLOAT32 = Bound(worst=1e-3, mean=1e-4)
"""Other kernels and devices add in another order: thirty times what was measured."""
HALF = Bound(worst=1.0, mean=0.1)
"""Of all that is computed being rounded to bfloat16: more than twice what was measured.
Raw and processed values of the same calls were 0.3 apart on average."""


def bound_of(*dtypes: str) -> Bound:
    """``FLOAT32`` where all is float32. A type that nobody has told may be any."""
    return FLOAT32 if set(dtypes) == {"float32"} else HALF
