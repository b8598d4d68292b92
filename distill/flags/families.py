"""Which tasks are made up, and how large."""

from pathlib import Path

import click

from distill.flags.errors import show_traceback
from distill.flags.together import together

tasks_options = together(
    click.argument("family", metavar="FAMILY"),
    click.option(
        "--out",
        "-o",
        type=click.Path(path_type=Path),
        required=True,
        metavar="DIR",
        help="A new folder.",
    ),
    click.option(
        "--train", type=int, default=400, show_default=True, metavar="N", help="Tasks to train on."
    ),
    click.option(
        "--test", type=int, default=100, show_default=True, metavar="N", help="Tasks held out."
    ),
    click.option(
        "--entries", type=int, metavar="K", help="Entries of a document (default: the family's)."
    ),
    click.option(
        "--chars", type=int, metavar="C", help="Characters of a document (default: the family's)."
    ),
    click.option(
        "--attempts",
        type=int,
        default=1,
        show_default=True,
        metavar="N",
        help="How often each task is asked; `train rl` needs several answers to the same question.",
    ),
    click.option(
        "--temperature",
        type=float,
        metavar="X",
        show_default="as whoever writes the code says",
        help="Have the workers answer at this temperature; rl needs answers that differ: 1.",
    ),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        metavar="S",
        help="Another seed makes up other documents; the same one the same, to the byte.",
    ),
    click.option(
        "--text",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="What the documents are padded with (default: examples/kjv.txt of the clone).",
    ),
    show_traceback,
)
