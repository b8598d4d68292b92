"""What `distill score` is told."""

from pathlib import Path

import click

from distill.flags.errors import show_traceback
from distill.flags.together import together
from distill.task_options import CONCURRENCY, CONCURRENCY_LIMIT

scoring = together(
    click.argument("runs", metavar="RUN...", nargs=-1, required=True),
    click.option(
        "--scorer",
        metavar="NAME",
        help="exact, contains, f1, number, number:TOLERANCE, judge:MODEL (asks an API model), or "
        "module:function. Without it nothing is scored: the scores that there are, are shown.",
    ),
    click.option(
        "--labels",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="The expected answers: a JSON object a line with `label`, and `id` (the label of the "
        "runs) or `run` (default: those of the results of --tasks beside the logs, else of "
        "earlier scores).",
    ),
    click.option("--again", is_flag=True, help="Also score what this scorer has scored already."),
    click.option(
        "--concurrency",
        type=click.IntRange(1, CONCURRENCY_LIMIT),
        default=CONCURRENCY,
        show_default=True,
        metavar="N",
        help="How many are scored at a time.",
    ),
    click.option(
        "--max-dollars",
        type=click.FloatRange(min=0),
        metavar="X",
        show_default="5 where the judge is paid",
        help="The most that a judge may cost; what was scored until then stays.",
    ),
    click.option(
        "--prices",
        type=click.Path(exists=True, dir_okay=False, resolve_path=True),
        metavar="FILE",
        help="What models cost, as of `distill run`.",
    ),
    click.option(
        "--picture",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE.svg",
        help="Also draw the table.",
    ),
    click.option("--json", "as_json", is_flag=True, help="The table as JSON, for programs."),
    show_traceback,
)
