"""What is exported, how it is chosen, and where it goes."""

from pathlib import Path

import click

from distill.flags.errors import show_traceback
from distill.flags.together import together

selection = together(
    click.option(
        "--where",
        multiple=True,
        metavar="EXPR",
        help="Only what this holds for: 'run.turns < 9 and call.output_tokens < 200'. A wrong name "
        "lists the right ones. Several must all hold.",
    ),
    click.option(
        "--select",
        type=click.Choice(["all", "best", "correct", "shortest"]),
        default="all",
        show_default=True,
        help="Of the runs that put the same question to the same text: all, the one with the best "
        "score, the correct ones, or the shortest of these.",
    ),
    click.option(
        "--scorer", metavar="SCORER", help="Whose scores decide, where there are several scorers."
    ),
    click.option(
        "--correct-from",
        type=click.FloatRange(0, 1),
        default=1.0,
        show_default=True,
        metavar="X",
        help="The score from which a run is correct.",
    ),
    click.option("--dedup", is_flag=True, help="Drop rows that are there already, or all but."),
    click.option(
        "--results",
        multiple=True,
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Results of --tasks with scores of these runs, beyond those beside the log folders.",
    ),
    click.option(
        "--without-shots",
        is_flag=True,
        help="Leave the turns before the last out of workers' prompts: what a few-shot prompt was "
        "answered is taught to the zero-shot one.",
    ),
)
"""Which runs and calls become rows, and what of them."""
export_options = together(
    click.argument("runs", metavar="RUN...", nargs=-1, required=True),
    click.option(
        "--format",
        "-f",
        "format",
        required=True,
        metavar="FORMAT",
        help="What a row is: see docs/export.md; a name that is none lists them.",
    ),
    click.option(
        "--out", "-o", type=click.Path(path_type=Path), metavar="DIR", help="A new folder."
    ),
    selection,
    click.option(
        "--split",
        metavar="NAME=SHARE,…",
        help="Share the texts out, e.g. train=0.9,test=0.1: none is on two sides.",
    ),
    click.option(
        "--seed", type=int, default=0, show_default=True, metavar="N", help="Of the shares."
    ),
    click.option(
        "--as",
        "as_",
        type=click.Choice(["jsonl", "parquet"]),
        default="jsonl",
        show_default=True,
        help="The kind of file.",
    ),
    click.option(
        "--rows", type=click.IntRange(1), metavar="N", help="Of few-shot: so many demonstrations."
    ),
    click.option(
        "--not-from",
        multiple=True,
        metavar="FILE|FOLDER",
        help="Of few-shot: a text that they will be used on, of which none may come.",
    ),
    click.option(
        "--length-weight",
        type=float,
        metavar="X",
        help="Of episodes: the most that length takes of a reward, as a share (default: 0.2).",
    ),
    click.option("--dry-run", is_flag=True, help="Only count, and say what is dropped and why."),
    show_traceback,
)
