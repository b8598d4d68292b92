"""What the commands do, once their arguments are read."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from distill import task_options
from distill.adapters import NamedAdapter, is_path
from distill.adapters import parse as parse_adapter
from distill.answers import read_schema
from distill.budget import Budget, amount, counted
from distill.display import Display
from distill.dry_run import CountingBackend, estimate
from distill.endpoint import host_of
from distill.engine import Engine
from distill.engine_arguments import metrics_address, supervisor_settings, worker_settings
from distill.errors import BudgetError, InputError, MachineError, ModelError
from distill.first_checks import (
    check_folder,
    check_texts,
    check_words,
    check_written,
    checked,
    is_recorded,
)
from distill.going_on import says_how_to_go_on
from distill.inputs import read_context
from distill.limits import Limits, parse, replaced
from distill.models import ModelHandler
from distill.orchestrator import default_log_dir
from distill.own_engine import engine_up, stay
from distill.packages import described
from distill.protocol.client_link import Ask
from distill.rates import taken_from
from distill.ray_options import check_ray, with_cluster
from distill.ready_primitives import check_installed, named
from distill.resident import OWN_ASK, Resident, SandboxSettings
from distill.run_result import RunResult
from distill.spooled import is_stream, spooled
from distill.summary import answer_text
from distill.supervisor.keyring import server_keys, worker_key_path
from distill.supervisor.text import visible
from distill.supervisor.workers import SUPERVISOR_PREFIX
from distill.supervisors import REPLAY, RecordedSupervisor, supervisor_from
from distill.task_commands import ask_all, check_tasks, is_all_done
from distill.task_options import Many
from distill.user_folders import cache_folder
from distill.worker_settings import WorkerSettings

DEFAULT_MODEL_NAME, DEFAULT_WINDOW_TOKENS = "SmolLM2-135M-Instruct", 8192
"""Of the worker that serves where nobody names one."""


def up(
    *,
    paths: Sequence[str],
    query: str | None,
    supervisor: str | None,
    base_url: str | None,
    worker: str | None,
    worker_url: str | None,
    gpus: str | None,
    cores: str | None,
    supervisor_gpus: str | None,
    supervisor_cores: str | None,
    window_tokens: int | None,
    adapters: Sequence[str],
    max_lora_rank: int | None,
    chat_template: str | None,
    listen: str | None,
    only_joined: bool,
    metrics_port: str | None,
    prepare: bool,
    check_only: bool,
    dry_run: bool,
    **options: Any,
) -> int:
    """Bring an engine up; answer one question, or stay up until Ctrl-C."""
    many = task_options.taken_from(options, query or paths, dry_run=dry_run)
    rates = taken_from(options, "supervisor")
    settings = worker_settings(
        worker,
        worker_url,
        gpus,
        cores,
        window_tokens,
        adapters,
        max_lora_rank,
        chat_template,
        taken_from(options, "worker"),
        listen,
        only_joined,
    )
    settings = with_cluster(settings, options)
    own = supervisor_settings(supervisor, supervisor_gpus, supervisor_cores, settings)
    metrics_at = None if metrics_port is None else metrics_address(metrics_port)
    sandbox = _sandbox(options)
    _take_schema(options)
    if check_only or (many is not None and many.check):
        if not prepare:
            files = [path for path in paths if not is_stream(path)]
            # What reads a PDF may be about to be installed.
            checked(many, files, query, supervisor, base_url, rates, options, looks_only=True)
        return 0
    if prepare:
        return _prepare(settings, *([] if own is None else [own]))
    _check_devices(settings, own, options)
    described(sandbox.packages)
    check_installed(named(options["primitives"]))
    recorded = is_recorded(paths, query, supervisor, options)
    check_words(query, paths)
    with spooled(paths) as files:
        if dry_run:
            return _dry_run(settings, sandbox, files, query, supervisor, base_url, options)
        handler = checked(many, files, query, supervisor, base_url, rates, options)
        resident = Resident(settings, sandbox, own)
        with (
            _stopping(options, query, is_one=many is None and (query is not None or recorded)),
            Display() as display,
            engine_up(resident, display, metrics_at, asks_workers=_asks(handler, options, many)),
        ):
            if many is not None:
                return ask_all(many, handler or supervisor, resident, _given(options), display)
            if query is None and not recorded:
                return stay(resident, display)
            display.phase("starting the run")
            ask = Ask(OWN_ASK, query or "", tuple(files), supervisor, _given(options))
            result, text = resident.answer(ask, display.progress, handler)
        return _print(result, text, options)


def _stopping(
    options: dict[str, Any], query: str | None, *, is_one: bool
) -> contextlib.AbstractContextManager[None]:
    """Whoever stops one question hears how to go on; its log folder is chosen here for that."""
    if not is_one:
        return contextlib.nullcontext()
    if (resumed := options.get("resume")) is not None:
        return says_how_to_go_on(resumed, query, resumed=True)
    options["log_dir"] = str(Path(options.get("log_dir") or default_log_dir()).resolve())
    return says_how_to_go_on(options["log_dir"], query, resumed=False)


def _asks(supervisor: ModelHandler | None, options: dict[str, Any], many: Many | None) -> bool:
    """Whether workers will be asked: not where all is in a log, or in a results file."""
    if many is not None:
        return not is_all_done(many)
    return not (isinstance(supervisor, RecordedSupervisor) and options["replay_answers"] == "log")


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
    many = task_options.taken_from(options, query or paths, dry_run=dry_run)
    options["limits"] = parse(options["limits"])
    _take_schema(options)
    check_written(options)
    if _only_checked(many, options):
        return 0
    if (named := _named(adapter)) is not None:
        adapter = named.name
    recorded = is_recorded(paths, query, supervisor, options)
    if query is None and not recorded and many is None:
        raise InputError("no question: add --query TEXT")
    check_texts(query, *paths)
    with spooled(paths) as files:
        if not recorded and many is None:
            read_context(files, options["encoding"], looks_only=True)
        stopping = _stopping(options, query, is_one=many is None and not dry_run)
        asked = _given({**options, "base_url": base_url, "adapter": adapter})
        for folder in ("log_dir", "resume"):
            if asked.get(folder):
                asked[folder] = str(Path(asked[folder]).resolve())
        if supervisor is not None and supervisor.startswith(REPLAY):
            supervisor = REPLAY + str(Path(supervisor.removeprefix(REPLAY)).resolve())
        with stopping, Engine(connect) as engine, Display() as display:
            _load(named, engine, display)
            if many is not None:
                return ask_all(many, supervisor, engine, asked, display)
            if dry_run:
                click.echo(visible(str(engine.estimate(query or "", files, supervisor, asked))))
                return 0
            display.phase("asking the engine")
            result, text = engine.ask(
                query or "", files, supervisor, asked, display.progress, display.status
            )
        return _print(result, text, options)


def _load(adapter: NamedAdapter | None, engine: Engine, display: Display) -> None:
    if adapter is not None:
        display.phase(f"loading the adapter {adapter.name}")
        engine.load_adapter(adapter.path, adapter.name)


def _only_checked(many: Many | None, options: dict[str, Any]) -> bool:
    """Check many tasks, if there are; whether that was all that is wanted."""
    if many is None:
        return False
    check_folder(check_tasks(many, options))
    return many.check


def _named(word: str | None) -> NamedAdapter | None:
    """The adapter that is to be loaded, if the word is a path."""
    return parse_adapter(word) if word is not None and is_path(word) else None


def _dry_run(
    settings: WorkerSettings,
    sandbox: SandboxSettings,
    paths: Sequence[str],
    query: str | None,
    supervisor: str | None,
    base_url: str | None,
    options: dict[str, Any],
) -> int:
    """Print what the question would take; the worker is only named."""
    context, _ = read_context(paths, options["encoding"])
    if (supervisor or "").startswith(SUPERVISOR_PREFIX):
        raise InputError("--dry-run of a local supervisor needs its engine: use `distill run`")
    handler = supervisor_from(supervisor, base_url, check=False)
    model = settings.model or DEFAULT_MODEL_NAME
    window = settings.window_tokens or (None if settings.model else DEFAULT_WINDOW_TOKENS)
    worker = CountingBackend(model, window, host_of(settings.url) if settings.url else "")
    own = ("max_iterations", "output_limit", "prices", "primitives", "dialect", "max_depth")
    told = estimate(
        query or "",
        context,
        handler,
        worker,
        budget=Budget.taken_from(options),
        limits=sandbox.limits,
        sandbox_packages=sandbox.packages,
        sandbox=sandbox.tier,
        **{name: options[name] for name in own},
    )
    click.echo(visible(str(told)))
    return 0


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The run's options without those that nobody set."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in options.items()
        if value is not None
    }


def _take_schema(options: dict[str, Any]) -> None:
    """The schema in place of its file. Raises InputError."""
    if options["answer_schema"] is not None:
        options["answer_schema"] = read_schema(options["answer_schema"])


def _sandbox(options: dict[str, Any]) -> SandboxSettings:
    """The engine's sandbox, taken out of a command's options."""
    limits = replaced(Limits(), parse(options.pop("limits")))
    return SandboxSettings(limits, options.pop("sandbox_packages"), options.pop("sandbox"))


def _check_devices(
    workers: WorkerSettings, supervisor: WorkerSettings | None, options: dict[str, Any]
) -> None:
    """Raises MachineError where GPUs are not there, or two are one, or Ray is not installed.

    Raises InputError where the time of devices is limited, and there are none.
    """
    from distill.worker_server import gpus
    from distill.worker_server.errors import WorkerError

    budget = Budget.taken_from(dict(options))
    budget.check_devices(there=workers.url is None or supervisor is not None)
    if workers.ray is not None:
        check_ray()
    servers = (*workers.gpus, *(supervisor.gpus if supervisor is not None else ()))
    try:
        if servers:
            gpus.check_apart(servers, gpus.list_gpus())
    except WorkerError as error:
        raise MachineError(str(error)) from error


def _prepare(*wanted: WorkerSettings) -> int:
    """Do the downloads and conversions that a run would do."""
    from distill.worker_server import model
    from distill.worker_server.errors import WorkerError

    for settings in wanted:
        if settings.url is not None:
            click.echo("nothing to prepare: the worker is behind --worker-url", err=True)
            continue
        try:
            folder = model.resolve(settings.model, cache_folder())
        except WorkerError as error:
            raise ModelError(str(error)) from error
        click.echo(f"ready: {folder.path}", err=True)
        if settings.listen is not None:
            server_keys()
            click.echo(f"ready: {worker_key_path()}", err=True)
    return 0


def _no_answer(result: RunResult, options: dict[str, Any]) -> str:
    """Why there is none, and what to do."""
    kind: Any = result.ended_by or "turns"
    if kind == "turns":
        turns = counted(result.iterations, "turn")
        again = "" if result.replay else ": raise --max-iterations, or ask again"
        return f"no answer within {turns}{again}"
    limit = result.dollars_limit if kind == "dollars" else options.get(f"max_{kind}")
    # Of a run that goes on the log may have it.
    what = "all" if limit is None else f"the {amount(kind, limit)}"
    flag = f"--max-{kind.replace('_', '-')}"
    return f"no answer: {what} of {flag} were used up; raise it, or ask again"


def _print(result: RunResult, text: str, options: dict[str, Any]) -> int:
    if result.status == "unanswered" or (result.answer is None and result.ended_by is not None):
        click.echo(visible(text), err=True)
        raise BudgetError(_no_answer(result, options), budget=result.ended_by or "turns")
    if result.answer is None:
        click.echo(visible(text), err=True)
        raise BudgetError("no answer: nothing in the text was found to answer the question")
    if result.answer_problem is not None:
        # The summary says what is wrong with it.
        click.echo(f"{visible(text)}\n\n{visible(answer_text(result.answer))}", err=True)
        raise BudgetError("no answer that passes: raise --max-iterations, or ask again")
    answer = answer_text(result.answer)
    click.echo(visible(answer) if sys.stdout.isatty() else answer)
    click.echo(f"\n{visible(text)}", err=True)
    return 0
