"""What the commands do, once their arguments are read."""

import contextlib
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from distill import task_options
from distill.adapters import NamedAdapter, is_path
from distill.adapters import parse as parse_adapter
from distill.again import check_resumable
from distill.answers import read_schema
from distill.ask_options import NO_MODEL, NO_REPLAY, AskOptions
from distill.budget import Budget
from distill.display import Display
from distill.dry_run import CountingBackend, estimate
from distill.endpoint import host_of
from distill.engine import Engine
from distill.engine_arguments import metrics_address, supervisor_settings, worker_settings
from distill.errors import BudgetError, InputError, MachineError, ModelError
from distill.inputs import STDIN, read_context
from distill.limits import Limits, parse, replaced
from distill.local_supervisor import check_local
from distill.models import ModelHandler
from distill.orchestrator import default_log_dir
from distill.packages import described
from distill.protocol.client_link import Ask
from distill.rates import Rates, taken_from
from distill.ray_options import check_ray, with_cluster
from distill.ready_primitives import check_installed, named
from distill.resident import OWN_ASK, Resident, SandboxSettings
from distill.run_result import RunResult
from distill.summary import answer_text
from distill.supervisor.keyring import server_keys, worker_key_path
from distill.supervisor.text import printable, visible
from distill.supervisor.workers import SUPERVISOR_PREFIX
from distill.supervisors import REPLAY, RecordedSupervisor, supervisor_from
from distill.task_commands import ask_all, check_tasks
from distill.task_options import Many
from distill.user_folders import cache_folder
from distill.worker_settings import WorkerSettings

DECIDED = frozenset({*AskOptions.__struct_fields__, "encoding"}) - frozenset(
    ("adapter", "label", "log_dir", "replay_answers")
)
"""Options that a recorded run has from its log."""
LIMITS = frozenset(f"max_{kind}" for kind in Budget.__slots__)
"""Of these, what may be changed when a run goes on."""
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
    many = task_options.taken_from(options, dry_run=dry_run)
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
            files = [path for path in paths if not _is_stream(path)]
            # What reads a PDF may be about to be installed.
            _checked(many, files, query, supervisor, base_url, rates, options, looks_only=True)
        return 0
    if prepare:
        return _prepare(settings, *([] if own is None else [own]))
    _check_devices(settings, own)
    described(sandbox.packages)
    check_installed(named(options["primitives"]))
    recorded = _is_recorded(paths, query, supervisor, options)
    _check_words(query, paths)
    with _spooled(paths) as files:
        if dry_run:
            return _dry_run(settings, sandbox, files, query, supervisor, base_url, options)
        handler = _checked(many, files, query, supervisor, base_url, rates, options)
        resident = Resident(settings, sandbox, own)
        with (
            Display() as display,
            _up(resident, display, metrics_at, asks_workers=not _is_silent(handler, options)),
        ):
            if many is not None:
                return ask_all(many, handler or supervisor, resident, _given(options), display)
            if query is None and not recorded:
                return _stay(resident, display)
            display.phase("starting the run")
            ask = Ask(OWN_ASK, query or "", tuple(files), supervisor, _given(options))
            result, text = resident.answer(ask, display.progress, handler)
        return _print(result, text)


def _is_silent(supervisor: ModelHandler | None, options: dict[str, Any]) -> bool:
    """Whether no model will be asked: a recorded run is done again with its answers."""
    return isinstance(supervisor, RecordedSupervisor) and options["replay_answers"] == "log"


@contextlib.contextmanager
def _up(
    resident: Resident,
    display: Display,
    metrics_at: tuple[str, int] | None,
    *,
    asks_workers: bool,
) -> Iterator[None]:
    """The engine, with its workers up if any will be asked."""
    try:
        display.watch(resident.status)
        with _scraped(resident, metrics_at, display):
            if asks_workers:
                if (endpoint := resident.listen(display.line)) is not None:
                    display.line(_how_to_join(endpoint, resident.settings))
                display.phase(f"starting {resident.wanted}")
                resident.start(lambda status: display.phase(status or "all workers have a place"))
            yield
    finally:
        display.phase("ending")
        resident.close()


@contextlib.contextmanager
def _scraped(resident: Resident, at: tuple[str, int] | None, display: Display) -> Iterator[None]:
    """Prometheus may ask there meanwhile; nothing is imported if it may not."""
    if at is None:
        yield
        return
    from distill.metrics import MetricsServer

    server = MetricsServer(*at, resident.status)
    display.line(f"Metrics: {server.url}")
    try:
        yield
    finally:
        server.close()


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
    many = task_options.taken_from(options, dry_run=dry_run)
    options["limits"] = parse(options["limits"])
    _take_schema(options)
    if _only_checked(many, paths, query, options):
        return 0
    if (named := _named(adapter)) is not None:
        adapter = named.name
    recorded = _is_recorded(paths, query, supervisor, options)
    if query is None and not recorded and many is None:
        raise InputError("no question: add --query TEXT")
    _check_texts(query, *paths)
    with _spooled(paths) as files:
        if not recorded and many is None:
            read_context(files, options["encoding"], looks_only=True)
        asked = _given({**options, "base_url": base_url or None, "adapter": adapter})
        for folder in ("log_dir", "resume"):
            if asked.get(folder):
                asked[folder] = str(Path(asked[folder]).resolve())
        if supervisor is not None and supervisor.startswith(REPLAY):
            supervisor = REPLAY + str(Path(supervisor.removeprefix(REPLAY)).resolve())
        with Engine(connect) as engine, Display() as display:
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
        return _print(result, text)


def _load(adapter: NamedAdapter | None, engine: Engine, display: Display) -> None:
    if adapter is not None:
        display.phase(f"loading the adapter {adapter.name}")
        engine.load_adapter(adapter.path, adapter.name)


def _only_checked(
    many: Many | None, paths: Sequence[str], query: str | None, options: dict[str, Any]
) -> bool:
    """Check many tasks, if there are; whether that was all that is wanted."""
    if many is None:
        return False
    _check_folder(check_tasks(many, paths, query, options))
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


def _checked(
    many: Many | None,
    paths: Sequence[str],
    query: str | None,
    supervisor: str | None,
    base_url: str | None,
    rates: Rates,
    options: dict[str, Any],
    *,
    looks_only: bool = False,
) -> ModelHandler | None:
    """The supervisor, None for a local one, when one question or many have been checked."""
    if many is None:
        return _check_first(
            paths, query, supervisor, base_url, rates, options, looks_only=looks_only
        )
    _check_folder(check_tasks(many, paths, query, options))
    return _supervisor_from(supervisor, base_url, rates)


def _check_first(
    paths: Sequence[str],
    query: str | None,
    supervisor: str | None,
    base_url: str | None,
    rates: Rates,
    options: dict[str, Any],
    *,
    looks_only: bool = False,
) -> ModelHandler | None:
    """All that can be wrong and is cheap to see, before anything expensive starts."""
    named(options["primitives"])
    if _is_recorded(paths, query, supervisor, options):
        if options.get("resume") is not None:
            check_resumable(options["resume"])
        if supervisor is None and (rates.are_given or base_url is not None):
            raise InputError(NO_MODEL)
        if supervisor is None:
            return None
        return _supervisor_from(supervisor, base_url, rates)
    if query is None and paths:
        raise InputError("a text but no question: add --query TEXT")
    is_local = (supervisor or "").startswith(SUPERVISOR_PREFIX)
    asked = base_url or rates.are_given or options.get("log_dir") or options["label"]
    asked = asked or options["answer_schema"] is not None or options["quote_check"]
    if query is None and (asked or (supervisor and not is_local)):
        raise InputError(
            "without --query the engine only waits for questions: give --supervisor, --base-url, "
            "--supervisor-…-per-minute, --log-dir, --label, --answer-schema and --quote-check to "
            "`distill run`"
        )
    if query is not None:
        if not query.strip():
            raise InputError("the question is empty")
        if paths:
            read_context(paths, options["encoding"], looks_only=looks_only)
    _check_folder(options.get("log_dir") or default_log_dir().parent)
    return _supervisor_from(supervisor, base_url, rates)


def _supervisor_from(
    supervisor: str | None, base_url: str | None, rates: Rates
) -> ModelHandler | None:
    """The supervisor; None for a local one, which is asked of the engine once it is up."""
    if supervisor is not None and supervisor.startswith(SUPERVISOR_PREFIX):
        check_local(base_url, rates)
        return None
    return supervisor_from(supervisor, base_url, rates=rates)


def _is_recorded(
    paths: Sequence[str], query: str | None, supervisor: str | None, options: dict[str, Any]
) -> bool:
    """Whether the question and the text are those of a recorded run."""
    replayed = supervisor is not None and supervisor.startswith(REPLAY)
    resumed = options.get("resume") is not None
    if replayed and resumed:
        raise InputError("--resume goes on with a run, --supervisor replay:… does one again")
    if (replayed or resumed) and (paths or query is not None):
        raise InputError("a recorded run has its own question and text: leave out -c and -q")
    if options["replay_answers"] != "log" and not replayed:
        raise InputError(NO_REPLAY)
    if (replayed or resumed) and (typed := _typed(DECIDED - LIMITS if resumed else DECIDED)):
        raise InputError(f"a recorded run has its own options: leave out {', '.join(typed)}")
    if resumed and options.get("log_dir") is not None:
        raise InputError("--resume appends to the run's own log folder: leave out --log-dir")
    return replayed or resumed


def _typed(names: frozenset[str]) -> list[str]:
    """The flags of these parameters that are on the command line."""
    context = click.get_current_context()
    return [
        option.opts[0]
        for option in context.command.params
        if option.name in names
        and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]


def _how_to_join(endpoint: str, workers: WorkerSettings) -> str:
    """For a person at another machine."""
    key = worker_key_path()
    model = f" --worker {workers.model}" if workers.model else ""
    return (
        f"On another machine, as this user:\n"
        f"  bin/distill-worker --connect {endpoint}{model} --key {key}\n"
        f"The key lets it in. Where the home folder is another, copy it first:\n"
        f"  scp -p {key} MACHINE:worker.key"
    )


def _check_words(query: str | None, paths: Sequence[str]) -> None:
    _check_texts(query, *paths)
    if query is not None and not paths:
        raise InputError("a question but no text: add --context FILE, a folder, or -")


def _check_texts(*texts: str | None) -> None:
    """Bytes of the command line that are not UTF-8 arrive as lone surrogates."""
    for text in texts:
        if text is not None and printable(text) != text:
            raise InputError(f"{text!r} is not UTF-8: check the terminal's locale")


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"the log folder {folder} can't be used: {error.strerror or error}. "
            "Choose another with --log-dir"
        ) from error


@contextlib.contextmanager
def _spooled(paths: Sequence[str]) -> Iterator[list[str]]:
    """The paths, with what can be read only once (standard input, a pipe) in a file of its own."""
    if STDIN in paths and len(paths) > 1:
        raise InputError("- (standard input) can't be mixed with files")
    with contextlib.ExitStack() as stack:
        yield [_spool(path, stack) if _is_stream(path) else path for path in paths]


def _is_stream(path: str) -> bool:
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return path == STDIN
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise InputError(f"{path} is a device, not a text")
    return path == STDIN or stat.S_ISFIFO(mode)


def _spool(path: str, stack: contextlib.ExitStack) -> str:
    """Copy a stream into a temporary file; its path."""
    name = "standard input" if path == STDIN else path
    if path == STDIN and sys.stdin is None:
        raise InputError("standard input is closed: there is nothing to read")
    opened = sys.stdin.buffer if path == STDIN else Path(path).open("rb")  # noqa: SIM115
    source = stack.enter_context(opened)
    spool = tempfile.NamedTemporaryFile(prefix="distill-", suffix=".txt")  # noqa: SIM115
    file = stack.enter_context(spool)
    shutil.copyfileobj(source, file)
    if file.tell() == 0:
        raise InputError(f"{name} is empty: there is nothing to ask about")
    file.flush()
    return file.name


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


def _check_devices(workers: WorkerSettings, supervisor: WorkerSettings | None) -> None:
    """Raises MachineError where GPUs are not there, or two are one, or Ray is not installed."""
    from distill.worker_server import gpus
    from distill.worker_server.errors import WorkerError

    if workers.ray is not None:
        check_ray()
    servers = (*workers.gpus, *(supervisor.gpus if supervisor is not None else ()))
    try:
        if servers:
            gpus.check_apart(servers, gpus.list_gpus())
    except WorkerError as error:
        raise MachineError(str(error)) from error


def _stay(resident: Resident, display: Display) -> int:
    resident.serve()
    display.phase("")
    display.line(
        f"The engine is up ({resident.worker_name}). In another terminal:\n"
        f'  {_distill()} run -c FILE -q "QUESTION"\n'
        f"or, in Python:  distill.Engine({resident.endpoint!r})\n"
        "Ctrl-C ends it."
    )
    with contextlib.suppress(KeyboardInterrupt):
        resident.wait()
        raise MachineError("the engine's launcher died, and the workers with it; start it again")
    return 0


def _distill() -> str:
    """How to call this program from another terminal."""
    beside = Path(sys.executable).with_name("distill")
    return str(beside) if beside.exists() else f"{sys.executable} -m distill"


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


def _print(result: RunResult, text: str) -> int:
    if result.status == "unanswered":
        click.echo(visible(text), err=True)
        budget = result.ended_by or "turns"
        what = f"{result.iterations} turns" if budget == "turns" else f"the budget (max_{budget})"
        raise BudgetError(f"no answer within {what}", budget=budget)
    if result.answer is None:
        click.echo(visible(text), err=True)
        raise BudgetError("no answer: nothing in the text was found to answer the question")
    if result.answer_problem is not None:
        click.echo(f"{visible(text)}\n\n{visible(answer_text(result.answer))}", err=True)
        raise BudgetError(f"no answer within the turns that passes: {result.answer_problem}")
    answer = answer_text(result.answer)
    click.echo(visible(answer) if sys.stdout.isatty() else answer)
    click.echo(f"\n{visible(text)}", err=True)
    return 0
