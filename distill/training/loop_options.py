"""What a command line says of a loop, apart from what it says of each training in it."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from distill.errors import InputError
from distill.training.plan import Labels

OF_THE_ENGINE = (
    "worker",
    "gpus",
    "cores",
    "window_tokens",
    "max_lora_rank",
    "limits",
    "sandbox_packages",
    "sandbox",
)
NOT_OF_A_LOOP = {
    "runs": "--tasks runs the tasks itself: leave out RUN",
    "model": "the worker of a loop is --worker: leave out --model",
    "full": "versions are loaded into workers that run, which take LoRA adapters: leave out --full",
    "results": "the results are the loop's own: leave out --results",
}
OF_ROWS = ("where", "select", "correct_from", "dedup", "without_shots", "length_weight")
OF_BOTH = ("out", "scorer", "adapter", "show_traceback")
"""Options that a training has, too, and that a loop does not hand on."""


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """By the names of their flags; ``engine`` has those of OF_THE_ENGINE, by theirs."""

    tasks: Path
    held_out: Path | None
    iterations: int
    tasks_per_iteration: int | None
    margin: float
    labels: Labels
    supervisor: str | None
    base_url: str | None
    collect_with: str | None
    baselines: tuple[str, ...]
    whole_runs: Path | None
    whole_runs_with: str | None
    concurrency: int
    engine: dict[str, Any]


def taken_from(options: dict[str, Any]) -> LoopOptions | None:
    """Those of a loop, out of a command's; None where none is asked for. Raises InputError."""
    names = [each.name for each in fields(LoopOptions) if each.name != "engine"]
    engine = {name: options.pop(name) for name in OF_THE_ENGINE}
    given = LoopOptions(**{name: options.pop(name) for name in names}, engine=engine)
    typed = {name: words for name, words in _typed().items() if name in (*names, *OF_THE_ENGINE)}
    if given.tasks is None:
        for words in typed.values():
            beside = " is for --tasks FILE, and not for RUN"
            raise InputError(words + (beside if options.get("runs") else " needs --tasks FILE"))
        return None
    return given


def for_trainings(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was typed for each training: which rows, and its flags with their values.

    Raises InputError for what no training of a loop can have.
    """
    typed = _typed()
    for name, why in NOT_OF_A_LOOP.items():
        if options.get(name):
            raise InputError(why)
    if options.get("of", "worker") != "worker":
        raise InputError("a loop trains its worker: leave out --of")
    rows = {name: options[name] for name in OF_ROWS if name in typed}
    others = {
        flag: _plain(options[name])
        for name, flag in typed.items()
        if name in options and name not in (*OF_ROWS, *OF_BOTH)
    }
    return rows, others


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return str(value) if isinstance(value, Path) else value


def _typed() -> dict[str, str]:
    """The options of this command that somebody gave, by their names: the flags."""
    context = click.get_current_context()
    given = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
    return {
        option.name: max(option.opts, key=len)
        for option in context.command.params
        if option.name and context.get_parameter_source(option.name) in given
    }
