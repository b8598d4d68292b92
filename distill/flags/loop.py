"""Of ``distill train METHOD --tasks``: what a loop runs, how it decides, and on which engine."""

from pathlib import Path

import click

from distill.flags.sandbox import limit, sandbox_package, tier
from distill.flags.together import together
from distill.flags.workers import devices, window_tokens
from distill.task_options import CONCURRENCY, CONCURRENCY_LIMIT

_FILE = click.Path(dir_okay=False, path_type=Path)
asked = together(
    click.option(
        "--tasks",
        type=_FILE,
        metavar="FILE",
        help="In place of RUN: run these tasks (docs/tasks.md), train on what came of them, and "
        "again, with the better worker.",
    ),
    click.option(
        "--held-out",
        type=_FILE,
        metavar="FILE",
        help="The tasks that say whether a version is better; none of them, and none "
        "of their texts, may be in --tasks.",
    ),
    click.option(
        "--iterations",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        metavar="N",
        help="How often it is run, trained and tried.",
    ),
    click.option(
        "--tasks-per-iteration",
        type=click.IntRange(1),
        metavar="N",
        help="The next N of the tasks each time (default: all).",
    ),
    click.option(
        "--margin",
        type=click.FloatRange(0, 1),
        default=0.0,
        show_default=True,
        metavar="X",
        help="A version whose held-out accuracy is lower than its parent's by more "
        "than this is dropped.",
    ),
    click.option(
        "--labels",
        type=click.Choice(["logged", "oracle"]),
        default="logged",
        show_default=True,
        help="What is learnt are answers that were logged. oracle: once more, apart, "
        "also the tasks' own labels, for comparison.",
    ),
)
supervisors = together(
    click.option(
        "--supervisor",
        metavar="MODEL|recipe:NAME",
        show_default="recipe:find",
        help="Who writes the code of held-out runs.",
    ),
    click.option(
        "--base-url", metavar="URL", help="The OpenAI-compatible endpoint of these MODELs."
    ),
    click.option(
        "--collect-with",
        metavar="MODEL|recipe:NAME",
        show_default="as --supervisor",
        help="Who writes that of the runs that are learnt from, for example a recipe "
        "that shows the workers demonstrations.",
    ),
    click.option(
        "--baseline",
        "baselines",
        multiple=True,
        metavar="MODEL|recipe:NAME",
        help="Who else is tried on the held-out tasks, with the worker as it is (repeatable).",
    ),
    click.option(
        "--whole-runs",
        type=_FILE,
        metavar="FILE",
        help="Tasks that are tried at the end, with the worker as it was and as it is then.",
    ),
    click.option(
        "--whole-runs-with",
        metavar="MODEL|recipe:NAME",
        show_default="as --supervisor",
        help="Who writes their code.",
    ),
)
engine = together(
    click.option(
        "--worker",
        metavar="MODEL",
        show_default="SmolLM2-135M-Instruct",
        help="The worker, as it is before: a Hugging Face id or folder.",
    ),
    devices,
    window_tokens,
    click.option(
        "--max-lora-rank",
        type=click.IntRange(min=1, max=512),
        metavar="N",
        show_default="that of --lora-rank",
        help="Have room for LoRA adapters up to this rank.",
    ),
    limit,
    sandbox_package,
    tier,
    click.option(
        "--concurrency",
        type=click.IntRange(1, CONCURRENCY_LIMIT),
        default=CONCURRENCY,
        show_default=True,
        metavar="N",
        help="How many run at a time, a sandbox each.",
    ),
)
loop = together(asked, supervisors, engine)


NAMES = frozenset(option.name for option in click.command(loop(lambda: None)).params)


class TrainCommand(click.Command):
    """Its help has the options of a loop under a heading of their own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does it, but in two lists."""
        for heading, is_loop in (("Options", False), ("With --tasks (a loop)", True)):
            with formatter.section(heading):
                shown = [
                    record
                    for param in self.get_params(ctx)
                    if (param.name in NAMES) == is_loop
                    and (record := param.get_help_record(ctx)) is not None
                ]
                formatter.write_dl(shown)
