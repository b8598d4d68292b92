"""What a run may use."""

import click

from distill.flags.together import together

budget = together(
    click.option(
        "--max-worker-calls",
        type=click.IntRange(min=0),
        metavar="N",
        help="The most worker calls of the run; what is beyond them is not sent.",
    ),
    click.option(
        "--max-tokens",
        type=click.IntRange(min=1),
        metavar="N",
        help="The most tokens, in and out, of supervisor and workers.",
    ),
    click.option(
        "--max-dollars",
        type=click.FloatRange(min=0),
        metavar="X",
        show_default="5 where a model's endpoint is paid",
        help="The most that the run may cost.",
    ),
    click.option(
        "--max-gpu-s",
        type=click.FloatRange(min=0, min_open=True),
        metavar="S",
        help="The most seconds of the worker servers' devices.",
    ),
    click.option(
        "--max-wall-s",
        type=click.FloatRange(min=0, min_open=True),
        metavar="S",
        help="The most seconds from the start of the run, the last turn included.",
    ),
    click.option(
        "--prices",
        type=click.Path(exists=True, dir_okay=False, resolve_path=True),
        metavar="FILE",
        help="What models cost, as a TOML file that goes before ~/.config/distill/prices.toml and "
        "the table that ships with distill.",
    ),
)
