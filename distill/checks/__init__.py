"""What ``distill doctor`` looks at: isolation, the machine, models. Each look is one Check."""

from dataclasses import dataclass

import click

GIB = 1 << 30
MARKS = {
    True: click.style("ok ", fg="green"),
    False: click.style("BAD", fg="red", bold=True),
    None: click.style("-- ", fg="bright_black"),
}
"""Whether it is fine, before a line of what was seen."""


@dataclass(frozen=True, slots=True)
class Check:
    """One look at the machine: what was seen, and the remedy if it is not fine.

    ``fine`` None: it is not there, or not as it could be, and a run works without it. ``seen``
    may have several lines.
    """

    name: str
    fine: bool | None
    seen: str
    remedy: str = ""


def gib(size_bytes: float) -> str:
    """A size as people compare it."""
    return f"{size_bytes / GIB:.1f} GiB"
