"""The command line of training: ``distill train sft | rl | opd | compare | tasks``."""

from collections.abc import Callable
from typing import Any

import click

from distill import exit_codes
from distill.errors_told import errors_told
from distill.flags.comparison import comparison
from distill.flags.families import tasks_options
from distill.flags.loop import TrainCommand, loop
from distill.flags.policy import opd as opd_options
from distill.flags.policy import rl as rl_options
from distill.flags.training import sft as sft_options


@click.group()
def train() -> None:
    """Train a worker, or a supervisor, on what was logged."""


@train.command(cls=TrainCommand, epilog=exit_codes.TRAIN)
@sft_options
@loop
def sft(**options: Any) -> int:
    """Fine-tune on answers that were logged. RUN is a log folder, FOLDER#ID, or an export.

    \b
    Examples:
      distill train sft runs/kjv.logs --select correct --scorer exact -o trained/reader
      distill train sft runs/kjv.logs --of supervisor --full -o trained/boss
      distill train sft --tasks train.jsonl --held-out test.jsonl --iterations 2 -o loop
    """  # noqa: D301  (as above)
    from distill.training import command

    return _trained("sft", command.sft, options)


@train.command(cls=TrainCommand, epilog=exit_codes.TRAIN)
@rl_options
@loop
def rl(**options: Any) -> int:
    """Make answers likelier that earned more than others to the same question.

    Of runs with scores and log-probabilities. RUN is a log folder, FOLDER#ID, or an export.

    \b
    Examples:
      distill train rl runs/kjv.logs --scorer exact --adapter trained/reader/adapter -o trained/v2
      distill train rl --tasks train.jsonl --held-out test.jsonl --iterations 2 -o loop
    """  # noqa: D301  (as above)
    from distill.training import policy_command

    return _trained("rl", policy_command.rl, options)


@train.command(cls=TrainCommand, epilog=exit_codes.TRAIN)
@opd_options
@loop
def opd(**options: Any) -> int:
    """Learn from a teacher, token by token, on answers of the worker's own.

    RUN is a log folder, FOLDER#ID, or an export.

    \b
    Examples:
      distill train opd runs/kjv.logs --teacher HuggingFaceTB/SmolLM2-1.7B-Instruct -o trained/v2
      distill train opd runs/kjv.logs --teacher-adapter trained/reader/adapter -o trained/v2
    """  # noqa: D301  (as above)
    from distill.training import policy_command

    return _trained("opd", policy_command.opd, options)


def _trained(method: str, by_hand: Callable[..., int], options: dict[str, Any]) -> int:
    """Train on what is named, or go round the loop of --tasks."""
    from distill.training import loop_command, loop_options

    with errors_told(options.pop("show_traceback")):
        if (asked := loop_options.taken_from(options)) is not None:
            return loop_command.run(method, asked, options)
        return by_hand(**options)


@train.command(epilog=exit_codes.COMPARE)
@comparison
def compare(runs: tuple[str, ...], **options: Any) -> int:
    """Compare versions of a worker under recorded code. RUN is a log folder, or FOLDER#ID.

    The supervisor says what it had said in each run, and costs nothing; each version answers.

    \b
    Examples:
      distill train compare runs/kjv.logs --version base --version tuned=runs/step-20 -o runs/ab
      distill train compare runs/kjv.logs --connect --version old --version new -o runs/ab
    """  # noqa: D301  (as above)
    from distill.training.compare_command import compare_runs

    with errors_told(options.pop("show_traceback")):
        return compare_runs(runs, **options)


@train.command(epilog=exit_codes.TASKS)
@tasks_options
def tasks(**options: Any) -> int:
    """Make up tasks whose answers are known: facts in real prose.

    Files for --tasks: train.jsonl, and test.jsonl of other names, other facts and another part of
    the text.

    \b
    FAMILY:
      needle   made-up facts hidden in a long text, of which one is asked for
      extract  records in prose, to be given back in one strict line
      count    petitions in prose, each with how it ended, to be counted
      hops     things that went from hand to hand: one entry's answer leads to the next
      ledger   purchases, to be looked up and added up by a program of the question

    \b
    Examples:
      distill train tasks extract -o data/extract
      distill train tasks extract --attempts 8 --temperature 1 -o data/extract-rl
      distill train tasks count --entries 40 --train 50 --test 50 --seed 7 -o data/count
    """  # noqa: D301  (as above)
    from distill.training.families import command

    with errors_told(options.pop("show_traceback")):
        return command.run(**options)
