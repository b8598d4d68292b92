"""What `distill train compare` is told."""

from pathlib import Path

import click

from distill.flags.errors import show_traceback
from distill.flags.sandbox import tier
from distill.flags.settings import config
from distill.flags.together import together
from distill.flags.workers import workers
from distill.task_options import CONCURRENCY, CONCURRENCY_LIMIT, SCORER

comparison = together(
    config,
    click.argument("runs", metavar="RUN...", nargs=-1, required=True),
    click.option(
        "--version",
        "versions",
        multiple=True,
        required=True,
        metavar="[NAME=]PATH|NAME|base",
        help="A version that is compared (repeatable); the others are held against the first. "
        "base, or NAME=base: the bare worker model; PATH (with a / or a NAME=): the folder of a "
        "LoRA adapter, or of a model; NAME: an adapter that the engine has loaded.",
    ),
    click.option(
        "--out",
        "-o",
        type=click.Path(file_okay=False, path_type=Path),
        required=True,
        metavar="DIR",
        help="Where the replays go, a log folder for each version: DIR/NAME. What is done there is "
        "not done again.",
    ),
    click.option(
        "--connect",
        is_flag=False,
        flag_value="",
        metavar="[ENDPOINT]",
        help="An engine that is up (without a value: your newest one), in place of one that is "
        "started for this.",
    ),
    click.option(
        "--scorer",
        default=SCORER,
        show_default=True,
        metavar="NAME",
        help="As of `distill score`, which can score the replays by others later.",
    ),
    click.option(
        "--labels",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="The expected answers, as of `distill score` (default: those beside the runs).",
    ),
    click.option(
        "--concurrency",
        type=click.IntRange(1, CONCURRENCY_LIMIT),
        default=CONCURRENCY,
        show_default=True,
        metavar="N",
        help="How many replays at a time, of all versions, a sandbox each.",
    ),
    workers,
    tier,
    click.option("--json", "as_json", is_flag=True, help="The table as JSON, for programs."),
    show_traceback,
)
