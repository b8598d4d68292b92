"""What an endpoint's headers say of when to come again."""

import email.utils
import math
import re
import time
from collections.abc import Mapping

Headers = Mapping[str, str]
"""Names in lower case, or a mapping that does not mind."""

PASSING = frozenset((408, 409, 429))
"""Statuses below 500 that another try may better: those that openai's own client tries again."""
LIMITED = ("requests", "tokens")
UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = r"(\d+(?:\.\d+)?)(ms|[dhms])"


def is_passing(status: int, headers: Headers) -> bool:
    """Whether another try may be answered; ``x-should-retry`` is obeyed."""
    told = headers.get("x-should-retry")
    if told in ("true", "false"):
        return told == "true"
    return status in PASSING or status >= 500


def asked_wait_s(headers: Headers) -> float | None:
    """How long a refusal asks to wait (s); None: it does not say."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        seconds = _number(headers.get(name))
        if seconds is not None and seconds > 0:
            return seconds * unit_s
    until_s = _date(headers.get("retry-after"))
    if until_s is not None and until_s > time.time():
        return until_s - time.time()
    return exhausted_s(headers)


def exhausted_s(headers: Headers) -> float | None:
    """How long until a limit that is used up is there again (s); None: there is something left."""
    waits_s = [
        _duration(headers.get(f"x-ratelimit-reset-{name}"))
        for name in LIMITED
        if _number(headers.get(f"x-ratelimit-remaining-{name}")) == 0
    ]
    return max((wait_s for wait_s in waits_s if wait_s), default=None)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _date(text: str | None) -> float | None:
    """An HTTP date as seconds since 1970."""
    try:
        return email.utils.parsedate_to_datetime(text or "").timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _duration(text: str | None) -> float | None:
    """Seconds, plain or as in ``6m0s`` and ``20ms``."""
    if (seconds := _number(text)) is not None:
        return seconds
    parts = (text or "").strip()
    if not re.fullmatch(f"(?:{_PART})+", parts):
        return None
    return sum(float(number) * UNITS_S[unit] for number, unit in re.findall(_PART, parts))
