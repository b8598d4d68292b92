"""Of the ways to train on what the model in training has said itself."""

from pathlib import Path

import click

from distill.flags.together import together
from distill.flags.training import training

staleness = click.option(
    "--staleness",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Take answers of up to N versions before the one in training, too.",
)
rl = together(
    training(1e-4),
    click.option(
        "--length-weight",
        type=float,
        metavar="X",
        help="The most that length takes of the reward of a right answer, as a share "
        "(default: 0.2).",
    ),
    click.option(
        "--clip",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.2,
        show_default=True,
        metavar="X",
        help="Learn no more from a token once it is 1 - X or 1 + X times as likely as logged.",
    ),
    click.option(
        "--clip-high",
        type=click.FloatRange(0, min_open=True),
        metavar="X",
        show_default="that of --clip",
        help="The upper side of --clip.",
    ),
    click.option(
        "--kl",
        type=click.FloatRange(0),
        default=0.0,
        show_default=True,
        metavar="X",
        help="An anchor: the weight of the divergence from the version that answered.",
    ),
    staleness,
)
opd = together(
    training(3e-4),
    click.option(
        "--teacher",
        metavar="MODEL",
        show_default="the model in training",
        help="Who teaches: a Hugging Face id or folder with the same tokenizer.",
    ),
    click.option(
        "--teacher-adapter",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="A LoRA adapter of the teacher.",
    ),
    staleness,
)
