"""How much an endpoint may be asked."""

import click

from distill.flags.together import Flag, together


def rates(role: str, endpoint: str) -> Flag:
    """The flags of a role for what its endpoint may be asked."""
    return together(*(_rate(role, endpoint, kind) for kind in ("requests", "tokens")))


def _rate(role: str, endpoint: str, kind: str) -> Flag:
    """An option for how much of a kind the endpoint of a role may be asked."""
    return click.option(
        f"--{role}-{kind}-per-minute",
        type=click.IntRange(min=1),
        metavar="N",
        help=f"The most {kind} a minute that {endpoint} gets, of all runs together.",
    )
