"""How far two programs may be apart that compute the same: the bounds of the parity gate."""

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
HALF = Bound(worst=1.0, mean=0.1)


def bound_of(*dtypes: str) -> Bound:
    """``FLOAT32`` where all is float32. A type that nobody has told may be any."""
    return FLOAT32 if set(dtypes) == {"float32"} else HALF
