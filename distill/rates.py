"""How much an endpoint may be asked: requests and tokens a minute."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from distill.errors import InputError

MINUTE_S = 60.0
LIMITS = ("requests_per_minute", "tokens_per_minute")


@dataclass(frozen=True, slots=True)
class Rates:
    """How much an endpoint may be asked; None: no limit. Raises InputError.

    The limits hold in every stretch of ``window_s`` seconds: a shorter one evens out bursts.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    window_s: float = MINUTE_S

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < value < math.inf):
                raise InputError(f"{name} must be a number above 0, not {value!r}")
        if self.requests < 1:
            raise InputError(
                f"{self.requests_per_minute:g} requests a minute are less than one in "
                f"{self.window_s:g} s: give a longer window"
            )

    @property
    def are_given(self) -> bool:
        """Whether there is any limit."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None

    @property
    def requests(self) -> float:
        """Requests in one window."""
        return self._in_window(self.requests_per_minute)

    @property
    def tokens(self) -> float:
        """Tokens in one window."""
        return self._in_window(self.tokens_per_minute)

    def _in_window(self, per_minute: float | None) -> float:
        return math.inf if per_minute is None else per_minute * self.window_s / MINUTE_S

    def replaced(self, given: "Rates") -> "Rates":
        """These, with the limits that are given in their place."""
        limits = {name: getattr(given, name) for name in LIMITS if getattr(given, name) is not None}
        return dataclasses.replace(self, **limits, window_s=given.window_s) if limits else self


UNLIMITED = Rates()


def taken_from(options: dict[str, Any], role: Literal["supervisor", "worker"]) -> Rates:
    """The limits of a role's endpoint, out of the options of a run. Raises InputError."""
    return Rates(*(options.pop(f"{role}_{name}", None) for name in LIMITS))
