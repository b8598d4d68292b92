"""``distill train compare``: the engine that it needs, what it prints, its exit code."""

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from distill import engine_arguments
from distill.adapters import NamedAdapter, needed_rank
from distill.budget import Budget
from distill.display import Display
from distill.engine import Engine
from distill.engine_arguments import EngineArguments
from distill.errors import InputError, ModelError
from distill.own_engine import engine_up
from distill.resident import Resident
from distill.supervisor import background
from distill.supervisor.text import visible
from distill.training.comparing import ComparisonProgress
from distill.training.comparison import Compared, Comparison
from distill.training.comparison_table import as_object, said, table
from distill.training.versions import (
    BASE,
    Asker,
    Version,
    through_engine,
    through_resident,
    version_from,
    weights_hash,
)
from distill.worker_settings import WorkerSettings

OF_A_RUN = ("limits", "sandbox_packages")
"""Options of an engine that replays have from their logs."""


def compare_runs(
    runs: Sequence[str],
    *,
    versions: Sequence[str],
    out: Path,
    connect: str | None,
    concurrency: int,
    as_json: bool,
    scorer: str,
    labels: Path | None,
    **options: Any,
) -> int:
    """Do them again, score that, and print the table; the exit code."""
    named = [version_from(word) for word in versions]
    engine = _engine(named, connect, options)
    last: list[ComparisonProgress] = []

    def base() -> str:
        return "" if engine is None else _base_hash(engine.workers)

    with Display() as display:

        def tell(progress: ComparisonProgress) -> None:
            last[:] = [progress]
            display.tasks(line(progress))

        display.phase("reading the logs")
        comparison = Comparison.begin(
            runs, named, out, scorer=scorer, labels=labels, on_progress=tell, base=base
        )
        replays = comparison.replays
        try:
            for group in _by_model(replays.open(named)):
                with _asker(engine, connect, group, display) as asker:
                    background.wait(replays.run(asker, group, concurrency))
        except BaseException:
            if last:
                display.line(f"{line(last[0])}; the same command goes on from there")
            raise
        display.phase("scoring")
        compared = background.wait(comparison.conclude())
        display.phase("")
    for text in said(compared):
        click.echo(visible(text), err=True)
    click.echo(as_object(compared) if as_json else visible(table(compared)))
    return exit_code(compared)


def line(progress: ComparisonProgress) -> str:
    """How far it is, in a line."""
    parts = [f"replays {progress.done:,}/{progress.total:,}", f"{progress.running} running"]
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    return " · ".join([*parts, f"{progress.tokens:,} tokens", f"{progress.elapsed_s:.0f} s"])


def exit_code(compared: Compared) -> int:
    """0 if every replay came to its end."""
    return ModelError.exit_code if any(each.unfinished for each in compared.versions) else 0


def _engine(
    versions: Sequence[Version], connect: str | None, options: dict[str, Any]
) -> EngineArguments | None:
    """The engine of this command's own; None with ``connect``. Raises InputError."""
    engine = None
    if connect is None:
        engine = _own_engine(options)
        _check_own(versions, engine.workers)
    else:
        _check_others(versions, options)
    if len(versions) < 2:
        raise InputError("name two versions or more that are to be compared (--version)")
    return engine


def _own_engine(options: dict[str, Any]) -> EngineArguments:
    """The engine of this command's own."""
    nothing = {"metrics_port": None, **dict.fromkeys(OF_A_RUN, ())}
    engine = engine_arguments.taken_from({**options, **nothing}, None)
    engine.check_devices(Budget())
    return engine


def _base_hash(workers: WorkerSettings) -> str:
    """Of the model that its worker servers will load; empty where that is decided elsewhere."""
    is_elsewhere = workers.url is not None or workers.only_joined or workers.ray is not None
    return "" if is_elsewhere else weights_hash(workers.model)


def _check_own(versions: Sequence[Version], workers: WorkerSettings) -> None:
    """Raise InputError for versions that this command's own engine can't have."""
    there = [adapter.name for adapter in workers.adapters]
    for version in versions:
        is_folder = isinstance(version.adapter, Path) or version.model is not None
        if is_folder and workers.url is not None:
            raise InputError(f"--version {version.name}: folders are not for --worker-url")
        if version.name in there and is_folder:
            raise InputError(f"--version and --adapter both name {version.name}: once is enough")
        if isinstance(version.adapter, str) and version.adapter not in there:
            raise InputError(
                f"--version {version.name}: no adapter is called so; give NAME=PATH, or --connect "
                f"with the engine that has it. The bare model is {BASE}, or NAME={BASE}"
            )


def _check_others(versions: Sequence[Version], engines: Collection[str]) -> None:
    """Raise InputError for what an engine that is up can't be given. ``engines``: its options."""
    for version in versions:
        if version.model is not None:
            raise InputError(
                f"--version {version.name}: {version.model} is a model of its own, and the engine "
                "of --connect has another"
            )
    context = click.get_current_context()
    typed = [
        option.opts[0]
        for option in context.command.params
        if option.name in engines
        and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]
    if typed:
        raise InputError(f"{', '.join(typed)}: of an engine to be started; leave out --connect")


def _by_model(versions: Sequence[Version]) -> list[list[Version]]:
    """Those that one engine can have."""
    groups: dict[Path | None, list[Version]] = {}
    for version in versions:
        groups.setdefault(version.model, []).append(version)
    return list(groups.values())


@contextmanager
def _asker(
    engine: EngineArguments | None,
    connect: str | None,
    versions: Sequence[Version],
    display: Display,
) -> Iterator[Asker]:
    """What answers for these versions, while it is up."""
    if engine is None:
        with Engine(connect or None) as client:
            display.watch(client.status)
            yield through_engine(client)
        return
    settings = _settings(engine.workers, versions)
    resident = Resident(settings, engine.sandbox)
    with engine_up(resident, display, None, asks_workers=True):
        display.phase("starting the replays")
        yield through_resident(resident)


def _settings(workers: WorkerSettings, versions: Sequence[Version]) -> WorkerSettings:
    """The workers, with the model of these versions, and room for their adapters."""
    folders = [
        NamedAdapter(version.name, str(version.adapter))
        for version in versions
        if isinstance(version.adapter, Path)
    ]
    ranks = [each for each in (workers.max_lora_rank, needed_rank(folders)) if each is not None]
    model = versions[0].model
    return dataclasses.replace(
        workers,
        model=workers.model if model is None else str(model),
        max_lora_rank=max(ranks, default=None),
    )
