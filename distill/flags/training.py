"""What is trained, on what, and how."""

from pathlib import Path

import click

from distill.flags.errors import show_traceback
from distill.flags.export import selection
from distill.flags.together import Flag, together

runs = click.argument("runs", metavar="[RUN]...", nargs=-1)
weights = together(
    click.option(
        "--model",
        metavar="MODEL",
        help="A Hugging Face id or folder (default: SmolLM2-135M-Instruct, the default worker).",
    ),
    click.option(
        "--adapter",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="The LoRA adapter to go on from.",
    ),
    click.option(
        "--lora-rank",
        type=click.IntRange(1, 512),
        metavar="N",
        show_default="16, or that of --adapter",
        help="Train a LoRA adapter of this rank.",
    ),
    click.option(
        "--lora-alpha",
        type=click.FloatRange(0, min_open=True),
        metavar="X",
        show_default="twice the rank",
        help="How much the adapter counts: X by its rank.",
    ),
    click.option("--full", is_flag=True, help="Train all weights instead, to a model of its own."),
    click.option(
        "--device",
        metavar="NAME",
        show_default="the first GPU, else cpu",
        help="cpu, cuda or cuda:N.",
    ),
)


def learning_rate(default: float) -> Flag:
    """Of a way to train, with its default."""
    return click.option(
        "--learning-rate",
        type=click.FloatRange(0, min_open=True),
        metavar="X",
        default=default,
        show_default=True,
        help="At its highest, after the first steps; it ends at 0.",
    )


steps = together(
    click.option(
        "--epochs",
        type=click.FloatRange(0, min_open=True),
        metavar="X",
        default=3.0,
        show_default=True,
        help="How often each row is learnt from.",
    ),
    click.option(
        "--max-steps",
        type=click.IntRange(1),
        metavar="N",
        help="Steps of the optimiser, in the place of --epochs.",
    ),
    click.option(
        "--batch-rows",
        type=click.IntRange(1),
        metavar="N",
        default=8,
        show_default=True,
        help="Rows of a step.",
    ),
    click.option(
        "--max-tokens",
        type=click.IntRange(2),
        metavar="N",
        show_default="the model's window",
        help="Leave out rows that are longer, prompt and completion together; none is cut.",
    ),
    click.option(
        "--save-every-steps",
        type=click.IntRange(1),
        metavar="N",
        show_default="ten times in all",
        help="How often it is saved what the same command goes on from.",
    ),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        metavar="N",
        help="The same one gives the same order of rows and the same new weights.",
    ),
)
parity = together(
    click.option(
        "--parity-rows",
        type=click.IntRange(1),
        metavar="N",
        default=16,
        show_default=True,
        help="Logged calls that are first replayed on the weights: they must agree.",
    ),
    click.option(
        "--no-parity", is_flag=True, help="Train without it, on rows that can't be replayed."
    ),
)
out = click.option(
    "--out",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="A folder of its own; the same command goes on there where it was stopped.",
)


def training(rate: float) -> Flag:
    """Of every way to train; ``rate`` is the learning rate that is taken where none is given."""
    own = (weights, learning_rate(rate), steps, parity)
    return together(runs, out, selection, *own, show_traceback)


sft = together(
    training(1e-3),
    click.option(
        "--of",
        type=click.Choice(["worker", "supervisor"]),
        default="worker",
        show_default=True,
        help="Whose answers are learnt: the workers' calls, or the supervisor's replies whose "
        "code ran.",
    ),
    click.option(
        "--exact",
        is_flag=True,
        help="Learn the very token ids that were sampled, not the text (--record ids).",
    ),
)
