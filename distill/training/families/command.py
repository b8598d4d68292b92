"""``distill train tasks``, once its arguments are read."""

from pathlib import Path
from typing import Any

import click

from distill.training.families.writing import Asking, Sizes, generate


def run(
    family: str,
    out: Path,
    *,
    seed: int,
    text: Path | None,
    attempts: int,
    temperature: float | None,
    **sizes: Any,
) -> int:
    """Write the tasks; how many there are goes to stderr, the folder to stdout."""
    asking = Asking(attempts=attempts, temperature=temperature)
    made = generate(family, out, Sizes(**sizes), asking=asking, seed=seed, text=text)
    click.echo(f"Tasks       train {made.train:,}, test {made.test:,}", err=True)
    click.echo(str(made.out))
    return 0
