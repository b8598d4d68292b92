"""What a run may use, and amounts of it."""

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, get_args

from distill.errors import InputError

Kind = Literal["turns", "worker_calls", "tokens", "dollars", "gpu_s"]
"""What is counted; wall time passes by itself."""
KINDS: tuple[Kind, ...] = get_args(Kind)
ROUNDING = 1e-9
"""Of a dollar and of a second: sums of floats may miss a limit by so much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a run may use, its sub-runs included; None: no limit. Raises InputError.

    ``turns`` of supervisors; ``worker_calls`` that are sent; ``tokens`` in and out of all models;
    ``dollars`` by the price table; ``gpu_s``: seconds of worker servers' devices, shared by those
    who are served at once; ``wall_s`` from the start of the run.
    """

    turns: int | None = None
    worker_calls: int | None = None
    tokens: int | None = None
    dollars: float | None = None
    gpu_s: float | None = None
    wall_s: float | None = None

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> "Budget":
        """The limits, out of the options of a command or a client. Raises InputError."""
        return cls(**{name: options.pop(f"max_{name}", None) for name in cls.__slots__})

    @property
    def options(self) -> dict[str, Any]:
        """The limits as such options, but for those that there are not."""
        given = ((name, getattr(self, name)) for name in self.__slots__)
        return {f"max_{name}": value for name, value in given if value is not None}

    def check_devices(self, *, there: bool) -> None:
        """Raise InputError where the devices' time is limited, and no device is counted."""
        if self.gpu_s is not None and not there:
            raise InputError(
                "--max-gpu-s counts the time of worker servers' devices, and there are none: an "
                "endpoint does not say what it takes. Limit --max-dollars, --max-tokens or "
                "--max-wall-s"
            )

    def replaced(self, given: "Budget") -> "Budget":
        """This budget, with the limits that are given in their place."""
        limits = {name.removeprefix("max_"): value for name, value in given.options.items()}
        return dataclasses.replace(self, **limits)

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            _check_limit(each.name, getattr(self, each.name))


def _check_limit(name: str, value: object) -> None:
    whole = name in ("turns", "worker_calls", "tokens")
    least = 0 if name in ("worker_calls", "dollars") else 1 if whole else ROUNDING
    kinds = (int,) if whole else (int, float)
    if value is None:
        return
    if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value < math.inf:
        what = "a whole number" if whole else "a number"
        bound = f"of at least {least}" if least in (0, 1) else "above 0"
        raise InputError(f"the budget's {name} must be {what} {bound}, not {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """An amount of each kind."""

    turns: int = 0
    worker_calls: int = 0
    tokens: int = 0
    dollars: float = 0.0
    gpu_s: float = 0.0

    def of(self, kind: Kind) -> float:
        """The amount of one kind."""
        value: float = getattr(self, kind)
        return value

    def __add__(self, other: "Use") -> "Use":
        return Use(
            turns=self.turns + other.turns,
            worker_calls=self.worker_calls + other.worker_calls,
            tokens=self.tokens + other.tokens,
            dollars=self.dollars + other.dollars,
            gpu_s=self.gpu_s + other.gpu_s,
        )

    def __sub__(self, other: "Use") -> "Use":
        return Use(
            turns=self.turns - other.turns,
            worker_calls=self.worker_calls - other.worker_calls,
            tokens=self.tokens - other.tokens,
            dollars=self.dollars - other.dollars,
            gpu_s=self.gpu_s - other.gpu_s,
        )

    def at_most(self, other: "Use") -> "Use":
        """The smaller amount of each kind."""
        return Use(
            turns=min(self.turns, other.turns),
            worker_calls=min(self.worker_calls, other.worker_calls),
            tokens=min(self.tokens, other.tokens),
            dollars=min(self.dollars, other.dollars),
            gpu_s=min(self.gpu_s, other.gpu_s),
        )


NOTHING = Use()


def total(uses: Collection[Use]) -> Use:
    """All of them together."""
    return Use(
        turns=sum(use.turns for use in uses),
        worker_calls=sum(use.worker_calls for use in uses),
        tokens=sum(use.tokens for use in uses),
        dollars=sum(use.dollars for use in uses),
        gpu_s=sum(use.gpu_s for use in uses),
    )


def percent(share: float) -> str:
    """A share from 0 to 1 as people read it; what is not nothing, or not all, does not look so."""
    value = 100 * share
    if 0 < value < 0.1:
        return "< 0.1 %"
    if 99.9 < value < 100:
        return "> 99.9 %"
    return f"{value:.1f} %"


def counted(number: int, noun: str) -> str:
    """A number of things: "1 call", "2,000 calls"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def amount(kind: Kind | Literal["wall_s"], value: float) -> str:
    """An amount as people and models are told it: "1 worker call", "$0.4100", "93.0 s …"."""
    if kind == "dollars":
        # Rounded down: nobody is told of more than there is.
        return f"${math.floor(value * 1e4 + 1e-6) / 1e4:,.4f}"
    if kind in ("gpu_s", "wall_s"):
        return f"{value:,.1f} s of {'GPU' if kind == 'gpu_s' else 'wall'} time"
    return counted(int(value), kind.replace("_", " ").removesuffix("s"))
