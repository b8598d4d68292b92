"""What an answer must be, and whether one from before will do."""

from pathlib import Path

import click

from distill.flags.together import together

answer = together(
    click.option(
        "--answer-cache",
        type=click.Choice(["off", "run", "shared"]),
        default="off",
        show_default=True,
        help="Whether worker calls with temperature 0 or a seed are answered with what equal ones "
        "got before: never, in this run, or in any run of yours.",
    ),
    click.option(
        "--answer-schema",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE.json",
        help="The answer must fit the JSON schema in this file.",
    ),
    click.option(
        "--quote-check",
        is_flag=True,
        help="What the answer quotes must stand in the text word for word; the summary says where.",
    ),
)
