"""``distill export``, once its arguments are read."""

from collections.abc import Mapping
from typing import Any

import click

from distill.exports.exporting import export
from distill.exports.made import Export
from distill.supervisor.text import visible


def run(runs: tuple[str, ...], **options: Any) -> int:
    """Export, and tell what came of it on stderr; the folder alone goes to stdout."""
    made = export(runs, options.pop("out"), **options)
    click.echo(visible(told(made)), err=True)
    if made.out is not None:
        click.echo(str(made.out))
    return 0


def told(made: Export) -> str:
    """What came of it, for people."""
    lines = [f"Runs        {made.runs:,} of {made.runs_read:,}", *_drops(made.dropped_runs)]
    rows = ", ".join(f"{name} {count:,}" for name, count in made.rows.items())
    what = "would be written" if made.out is None else "written"
    lines += [f"Rows        {rows} ({what})", *_drops(made.dropped_rows)]
    return "\n".join([*lines, *(f"Note        {each}" for each in made.warnings)])


def _drops(counts: Mapping[str, int]) -> list[str]:
    ordered = sorted(counts.items(), key=lambda each: -each[1])
    return [f"            {count:,} dropped: {reason}" for reason, count in ordered]
