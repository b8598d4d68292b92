"""What is asked, and all that decides how the run goes."""

import click

from distill.flags.answer import answer
from distill.flags.budget import budget
from distill.flags.errors import show_traceback
from distill.flags.log import log, record
from distill.flags.sandbox import sandbox
from distill.flags.settings import config, show_config
from distill.flags.supervisor import below, supervisor
from distill.flags.together import together

question = together(
    config,
    show_config,
    click.option(
        "--context",
        "-c",
        "paths",
        multiple=True,
        metavar="FILE|FOLDER|-",
        help="The text: a file, several (repeat it), a folder, or - for standard input.",
    ),
    click.option("--query", "-q", metavar="TEXT", help="The question."),
    supervisor,
    sandbox,
    record,
    answer,
    below,
    click.option(
        "--dry-run",
        is_flag=True,
        help="Only say what the run, or all of --tasks, would ask and cost: nothing is sent, no "
        "engine is started.",
    ),
    budget,
    log,
    click.option(
        "--encoding",
        default="utf-8",
        show_default=True,
        metavar="NAME",
        help="The text's encoding.",
    ),
    show_traceback,
)
