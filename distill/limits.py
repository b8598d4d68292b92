"""The sandbox's limits as a user sets them: ``Limits(…)`` in Python, ``NAME=VALUE`` elsewhere."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from distill.errors import InputError
from distill.protocol.jail_link import Limits

__all__ = ["BOUNDS", "Limits", "amount", "check", "parse", "replaced", "table"]

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
UNITS = {
    "": 1,
    "b": 1,
    "k": KIB,
    "m": MIB,
    "g": GIB,
    "t": TIB,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": TIB,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE | re.ASCII)
MONTH_S = 31 * 86400


@dataclass(frozen=True, slots=True)
class Bound:
    """What a limit may be, and what it is of. The least values are the least that work."""

    least: float
    most: float
    meaning: str


BOUNDS = {
    # The interpreter, what the jail holds back to tell of a memory error, a page for the code.
    "memory_bytes": Bound(64 * MIB, 1024 * TIB, "memory of the jail"),
    "scratch_bytes": Bound(64 * KIB, 1024 * TIB, "files in the working directory"),
    "scratch_inodes": Bound(8, 1 << 30, "how many of them"),  # the folder itself takes some
    # What passes through one frame of the wire.
    "output_bytes": Bound(1 * KIB, 48 * MIB, "output of a cell; more is dropped"),
    # The standard streams, the jail's own descriptors up to 13, a module that is imported.
    "open_files": Bound(32, 1 << 20, "open files"),
    "threads": Bound(1, 1 << 20, "threads"),
    "cell_s": Bound(0.1, MONTH_S, "time of a cell, waits for workers aside"),
    "grace_s": Bound(0.1, MONTH_S, "from its interrupt to its end"),
    "run_s": Bound(1, MONTH_S, "time of all cells of a run"),
    "calls_in_flight": Bound(1, 1 << 20, "host calls at the same time"),
    "calls_per_cell": Bound(1, 1 << 30, "host calls of a cell"),
    "call_bytes": Bound(1 * KIB, 63 * MIB, "one host call, on the wire"),
}
"""Every limit, in the order of ``Limits``."""


def check(limits: Limits) -> Limits:
    """The same limits, if all are within their bounds. Raises InputError."""
    if not isinstance(limits, Limits):  # a user's word
        raise InputError(f"limits must be a distill.Limits, not {type(limits).__name__}")
    for name, bound in BOUNDS.items():
        value = getattr(limits, name)
        kind = int | float if name.endswith("_s") else int
        if not isinstance(value, kind) or isinstance(value, bool) or not math.isfinite(value):
            raise InputError(f"the limit {name} must be a number, not {value!r}")
        for edge, wrong, word in (
            (bound.least, value < bound.least, "least"),
            (bound.most, value > bound.most, "most"),
        ):
            if wrong:
                raise InputError(
                    f"the limit {name} can't be {amount(name, value)}: the {word} is "
                    f"{amount(name, edge)}"
                )
    return limits


def replaced(base: Limits, given: Mapping[str, float]) -> Limits:
    """The base with these limits in it, checked. Raises InputError, also for unknown names."""
    for name in given:
        _check_name(name)
    return check(msgspec.structs.replace(base, **given))


def _check_name(name: str) -> None:
    if name not in BOUNDS:
        raise InputError(f"there is no limit {name!r}. The limits and their defaults:\n{table()}")


def parse(words: Iterable[str]) -> dict[str, float]:
    """``NAME=VALUE`` each; bytes with or without a unit (``4GiB``). Raises InputError."""
    given: dict[str, float] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise InputError(f"{word!r} is no limit: write NAME=VALUE, for example cell_s=60")
        name = name.strip()
        _check_name(name)
        given[name] = _number(name, text.strip())
    replaced(Limits(), given)
    return given


def _number(name: str, text: str) -> float:
    if name.endswith("_bytes"):
        size = _SIZE.fullmatch(text)
        if size is not None and size[2].lower() in UNITS:
            return int(float(size[1]) * UNITS[size[2].lower()])
        raise InputError(f"{name}={text}: give a size, for example 512MiB, 4GiB or 1000000")
    try:
        return float(text) if name.endswith("_s") else int(text)
    except ValueError:
        kind = "seconds as a plain number" if name.endswith("_s") else "a whole number"
        raise InputError(f"{name}={text}: give {kind}") from None


def amount(name: str, value: float) -> str:
    """A limit's value as people write it."""
    if name.endswith("_s"):
        return f"{value:g} s"
    if not name.endswith("_bytes"):
        return f"{value:,}"
    for unit, size in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(value) >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value} bytes"


def table(limits: Limits | None = None) -> str:
    """All limits, one a line: name, value, what it is of."""
    limits = limits or Limits()
    return "\n".join(
        f"  {name:<16} {amount(name, getattr(limits, name)):>9}  {bound.meaning}"
        for name, bound in BOUNDS.items()
    )
