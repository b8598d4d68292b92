"""``distill train sft``, and what the other ways to train share with it."""

import math
from collections.abc import Sequence
from typing import Any

import click

from distill.display import Display
from distill.errors import InputError
from distill.exports.command import told
from distill.supervisor.text import visible
from distill.training.course import train
from distill.training.data import DataSet
from distill.training.devices import share_cores
from distill.training.extra import check_extra, quiet
from distill.training.gathering import gather
from distill.training.method import Method
from distill.training.settings import LORA_RANK, TrainSettings
from distill.training.trained import Trained, TrainProgress
from distill.training.weights import check_parent, rank_of

OF_EXPORTS = (
    "where",
    "select",
    "scorer",
    "correct_from",
    "dedup",
    "results",
    "without_shots",
    "length_weight",
)
"""Options that choose the rows, as `distill export` has them; not every method has all."""


def sft(runs: tuple[str, ...], *, of: str, exact: bool, **options: Any) -> int:
    """Fine-tune a worker, or a supervisor; the exit code."""
    from distill.training.sft import EXACT, Sft

    if of == "supervisor":
        if exact:
            raise InputError("--exact is of workers: a supervisor's token ids are not exported")
        formats: tuple[str, ...] = ("supervisor-turns",)
    else:
        formats = (EXACT,) if exact else ("worker-sft", "worker-sft-text")
    return run(runs, formats, Sft(), options)


def run(
    runs: Sequence[str], formats: Sequence[str], method: Method, options: dict[str, Any]
) -> int:
    """Export, train, and tell what came of it on stderr; the weights' folder goes to stdout.

    ``options`` are those of ``flags.training``.
    """
    check_extra()
    share_cores()
    choice = {name: options.pop(name) for name in OF_EXPORTS if name in options}
    settings = settings_of(options)
    method.check_options()
    with Display() as display:
        display.phase("reading the logs")
        data, made = gather(runs, formats, choice, settings.out)
        if made is not None:
            display.line(visible(told(made)))
        display.line(f"Trains on   rows of {DataSet.read(data).format}, in {data}")
        display.phase("loading the model")
        quiet()
        trained = train(method, data, settings, lambda at: display.tasks(line(at)))
        display.phase("")
    click.echo(visible(ended(trained, settings.batch_rows)), err=True)
    click.echo(str(trained.weights))
    return 0


def settings_of(options: dict[str, Any]) -> TrainSettings:
    """The settings, of the command line's options, checked. Raises InputError."""
    full, rank = options.pop("full"), options.pop("lora_rank")
    if full and rank is not None:
        raise InputError("--full trains all weights: leave out --lora-rank")
    if rank is None and not full:
        adapter = options["adapter"]
        rank = LORA_RANK if adapter is None else rank_of(adapter)
    if options.pop("no_parity"):
        options["parity_rows"] = 0
    settings = TrainSettings(lora_rank=rank, **options)
    settings.check()
    check_parent(settings)
    return settings


def line(at: TrainProgress) -> str:
    """How far it is, in a line."""
    left = "" if at.left_s is None else f" · {seconds(at.left_s)} left"
    return (
        f"step {at.step:,}/{at.steps:,} · loss {at.loss:.3f} · {at.tokens_per_s:,.0f} tokens/s · "
        f"{seconds(at.elapsed_s)}{left}"
    )


def ended(trained: Trained, batch_rows: int) -> str:
    """What came of it, for people."""
    fitted = trained.fitted
    what = "adapter" if trained.is_adapter else "model"
    epochs = fitted.steps / math.ceil(trained.rows / batch_rows)
    times = "epoch" if epochs == 1 else "epochs"
    of = f"{epochs:.3g} {times} of {trained.rows:,} rows, {fitted.tokens:,} tokens in all"
    steps = "1 step" if fitted.steps == 1 else f"{fitted.steps:,} steps"
    done = f"{steps}, {of}, in {seconds(fitted.seconds)}"
    lines = [
        f"Trained     {done}" if trained.is_new else f"Already trained: {done}",
        f"Parity      {trained.parity}",
        f"Loss        {fitted.first_loss:.3f} at first, {fitted.last_loss:.3f} in the end",
        f"The {what:<7} {trained.weights}",
        *(f"Note        {each}" for each in trained.warnings),
    ]
    return "\n".join(lines)


def seconds(value_s: float) -> str:
    """A time, in few characters."""
    minutes, rest = divmod(round(value_s), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
