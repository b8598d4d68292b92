"""What the commands do, once their arguments are read."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from distill import engine_arguments, rates, task_options
from distill.adapters import NamedAdapter, is_path
from distill.adapters import parse as parse_adapter
from distill.answers import read_schema
from distill.budget import Budget
from distill.display import Display
from distill.dry_run_commands import estimated_by, estimated_here
from distill.engine import Engine
from distill.engine_arguments import EngineArguments
from distill.errors import InputError
from distill.first_checks import (
    Asked,
    check_folder,
    check_recorded,
    check_texts,
    check_words,
    check_written,
    checked,
)
from distill.going_on import says_how_to_go_on
from distill.inputs import read_context
from distill.limits import parse
from distill.models import ModelHandler
from distill.orchestrator import default_log_dir
from distill.outcome import print_outcome
from distill.own_engine import engine_up, prepare, stay
from distill.packages import described
from distill.protocol.client_link import Ask
from distill.ready_primitives import check_installed, named
from distill.resident import OWN_ASK, Resident
from distill.spooled import is_stream, spooled
from distill.supervisor.text import visible
from distill.supervisors import REPLAY, RecordedSupervisor, is_replay
from distill.task_commands import ask_all, check_tasks, is_all_done


def up(
    *,
    paths: Sequence[str],
    query: str | None,
    supervisor: str | None,
    base_url: str | None,
    prepare_only: bool,
    check_only: bool,
    dry_run: bool,
    **options: Any,
) -> int:
    """Bring an engine up; answer one question, or many, or stay up until Ctrl-C."""
    many = task_options.taken_from(options, query or paths)
    limits = rates.taken_from(options, "supervisor")
    engine = engine_arguments.taken_from(options, supervisor)
    _take_schema(options)
    asked = Asked(many, tuple(paths), query, supervisor, base_url, options, limits)
    if check_only or (many is not None and many.check):
        if not prepare_only:
            seen = tuple(path for path in paths if not is_stream(path))
            # What reads a PDF may be about to be installed.
            asked = dataclasses.replace(asked, paths=seen)
            checked(asked, engine.workers, looks_only=True)
        return 0
    if prepare_only:
        prepare(engine.workers, *([] if engine.supervisor is None else [engine.supervisor]))
        return 0
    engine.check_devices(Budget.taken_from(dict(options)))
    described(engine.sandbox.packages)
    check_installed(named(options["primitives"]))
    check_written(options)
    check_recorded(asked)
    check_words(query, paths)
    with spooled(paths) as files:
        asked = dataclasses.replace(asked, paths=tuple(files))
        if dry_run:
            if many is not None:
                check_tasks(many, options, supervisor)
            click.echo(visible(str(estimated_here(engine, asked))))
            return 0
        return _answered(engine, asked, checked(asked, engine.workers))


def _answered(engine: EngineArguments, asked: Asked, handler: ModelHandler | None) -> int:
    """Bring the engine up and put to it what was asked; where that is nothing, stay up.

    ``handler`` is the supervisor, None for a local or a recorded one.
    """
    resident = Resident(engine.workers, engine.sandbox, engine.supervisor)
    with (
        _stopping(asked),
        Display() as display,
        engine_up(resident, display, engine.metrics_at, asks_workers=_asks(handler, asked)),
    ):
        if asked.many is not None:
            supervisor = handler or asked.supervisor
            return ask_all(asked.many, supervisor, resident, asked.given, display)
        if not asked.is_one:
            return stay(resident, display)
        display.phase("starting the run")
        ask = Ask(OWN_ASK, asked.query or "", asked.paths, asked.supervisor, asked.given)
        result, text = resident.answer(ask, display.progress, handler)
    print_outcome(result, text, asked.options)
    return 0


def _stopping(asked: Asked) -> contextlib.AbstractContextManager[None]:
    """Whoever stops one question hears how to go on; its log folder is chosen here for that."""
    if not asked.is_one:
        return contextlib.nullcontext()
    options = asked.options
    if (resumed := options.get("resume")) is not None:
        return says_how_to_go_on(resumed, asked.query, resumed=True)
    options["log_dir"] = str(Path(options.get("log_dir") or default_log_dir()).resolve())
    return says_how_to_go_on(options["log_dir"], asked.query, resumed=False)


def _asks(supervisor: ModelHandler | None, asked: Asked) -> bool:
    """Whether workers will be asked: not where all is in a log, or in a results file."""
    if asked.many is not None:
        return not is_all_done(asked.many)
    is_replayed = isinstance(supervisor, RecordedSupervisor)
    return not (is_replayed and asked.options["replay_answers"] == "log")


def run(
    *,
    paths: Sequence[str],
    query: str | None,
    supervisor: str | None,
    base_url: str | None,
    connect: str | None,
    adapter: str | None,
    dry_run: bool,
    **options: Any,
) -> int:
    """Put a question, or many, to an engine that is up."""
    many = task_options.taken_from(options, query or paths)
    options["limits"] = parse(options["limits"])
    _take_schema(options)
    check_written(options)
    if many is not None:
        check_folder(check_tasks(many, options, supervisor))
        if many.check:
            return 0
    folder = parse_adapter(adapter) if adapter is not None and is_path(adapter) else None
    options |= {"base_url": base_url, "adapter": adapter if folder is None else folder.name}
    asked = Asked(many, tuple(paths), query, _absolute(supervisor), base_url, options)
    check_recorded(asked)
    if many is None and not asked.is_one:
        raise InputError("no question: add --query TEXT")
    check_texts(query, *paths)
    with spooled(paths) as files:
        if asked.is_one and not asked.is_recorded:
            read_context(files, options["encoding"], looks_only=True)
        stopping = contextlib.nullcontext() if dry_run else _stopping(asked)
        given = _for_an_engine(asked)
        with stopping, Engine(connect) as engine, Display() as display:
            _load(folder, engine, display)
            if dry_run:
                click.echo(visible(str(estimated_by(engine, asked, files, given))))
                return 0
            if many is not None:
                return ask_all(many, asked.supervisor, engine, given, display)
            display.phase("asking the engine")
            question = (query or "", files, asked.supervisor, given)
            result, text = engine.ask(*question, display.progress, display.status)
    print_outcome(result, text, options)
    return 0


def _for_an_engine(asked: Asked) -> dict[str, Any]:
    """The options of a run as the engine is sent them, which runs in another folder."""
    given = asked.given
    for folder in ("log_dir", "resume"):
        if given.get(folder):
            given[folder] = str(Path(given[folder]).resolve())
    return given


def _absolute(supervisor: str | None) -> str | None:
    """The supervisor's name; a recorded run's as the engine finds it, from wherever it was run."""
    if supervisor is None or not is_replay(supervisor):
        return supervisor
    return REPLAY + str(Path(supervisor.removeprefix(REPLAY)).resolve())


def _load(adapter: NamedAdapter | None, engine: Engine, display: Display) -> None:
    if adapter is not None:
        display.phase(f"loading the adapter {adapter.name}")
        engine.load_adapter(adapter.path, adapter.name)


def _take_schema(options: dict[str, Any]) -> None:
    """The schema in place of its file. Raises InputError."""
    if options["answer_schema"] is not None:
        options["answer_schema"] = read_schema(options["answer_schema"])
