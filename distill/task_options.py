"""The options of many tasks, as the command line has them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from distill.errors import InputError

CONCURRENCY = 8
CONCURRENCY_LIMIT = 1024
SCORER = "exact"


@dataclass(frozen=True, slots=True)
class Many:
    """Tasks instead of one question; ``check``: only look whether they can be run."""

    tasks: Path
    concurrency: int
    scorer: str
    results: Path | None
    retry_errors: bool
    max_dollars_total: float | None
    check: bool


_FILE = click.Path(dir_okay=False, path_type=Path)
_OPTIONS = (
    click.option(
        "--tasks",
        type=_FILE,
        metavar="FILE",
        help="Many questions instead of one: a JSON object a line (id, query, context or path, "
        "label, attempts, options; docs/tasks.md). The same command again goes on where it was "
        "stopped.",
    ),
    click.option(
        "--concurrency",
        type=click.IntRange(1, CONCURRENCY_LIMIT),
        default=CONCURRENCY,
        show_default=True,
        metavar="N",
        help="With --tasks: how many run at a time, a sandbox each.",
    ),
    click.option(
        "--scorer",
        default=SCORER,
        show_default=True,
        metavar="NAME",
        help="With --tasks: exact, contains, f1, number, number:TOLERANCE, judge:MODEL (asks an "
        "API model), or module:function.",
    ),
    click.option(
        "--results",
        type=_FILE,
        metavar="FILE",
        help="With --tasks: where the results go, a line each (default: beside the tasks, "
        "NAME.results.jsonl). What is in it is not asked again.",
    ),
    click.option(
        "--retry-errors",
        is_flag=True,
        help="With --tasks: run those again that ended with an error.",
    ),
    click.option(
        "--max-dollars-total",
        type=click.FloatRange(min=0, min_open=True),
        metavar="X",
        help="With --tasks: the most that all runs together may cost, those in the results "
        "included; --max-dollars is each run's.",
    ),
    click.option(
        "--check", is_flag=True, help="With --tasks: only check the tasks and their files."
    ),
)


def task_options(command: Any) -> Any:
    """Give a command these options."""
    option: Callable[[Any], Any]
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def taken_from(options: dict[str, Any], one: object) -> Many | None:
    """What was asked for, taken out of a command's options; None for one question.

    ``one`` is what was asked or named for one, if anything. Raises InputError.
    """
    many = Many(**{name: options.pop(name) for name in Many.__slots__})
    if many.tasks is not None:
        if one:
            raise InputError("--tasks has the questions and texts: leave out -c and -q")
        return many
    context = click.get_current_context()
    for name in Many.__slots__:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise InputError(f"--{name.replace('_', '-')} is for --tasks FILE")
    return None
