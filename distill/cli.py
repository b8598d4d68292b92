"""The command line: ``distill up | run | worker | doctor``.

The answer alone goes to stdout; progress, evidence and errors go to stderr. Exit codes are
those of ``distill.errors``; 130 is Ctrl-C.
"""

import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from distill import config_file
from distill.errors import DistillError, InputError, MachineError
from distill.supervisor.text import visible
from distill.task_options import task_options
from distill.version import __version__

EXIT_CODES = """\
\b
Exit codes:
  0    answered; with --tasks: no task failed
  2    the question, the text or an argument can't be used
  3    this machine can't do it (platform, sandbox, device, memory)
  4    a model or its endpoint failed
  5    no answer: none within the turns or another budget, none that passes, or the text holds none
  6    distill failed
  130  Ctrl-C"""

OF_A_QUESTION = (
    *("supervisor", "base_url", "log_dir", "label"),
    *("supervisor_requests_per_minute", "supervisor_tokens_per_minute"),
)
"""Options that an engine without a question does not take."""


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def apply(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


_config = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=config_file.take,
    metavar="FILE",
    help="Options from this TOML file, by the names of their flags; what is typed goes before it "
    "(default: ~/.config/distill/config.toml, if it is there).",
)
_show_config = click.option(
    "--show-config",
    is_flag=True,
    help="Only print the options in force and where each comes from, as such a file.",
)
_limit = click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="NAME=VALUE",
    help="A limit of the sandbox, for example memory_bytes=4GiB or cell_s=300 (repeatable). "
    "`distill doctor` lists them.",
)


def _rate(role: str, endpoint: str, kind: str) -> Callable[[Any], Any]:
    """An option for how much of a kind the endpoint of a role may be asked."""
    return click.option(
        f"--{role}-{kind}-per-minute",
        type=click.IntRange(min=1),
        metavar="N",
        help=f"The most {kind} a minute that {endpoint} gets, of all runs together.",
    )


_sandbox_package = click.option(
    "--sandbox-package",
    "sandbox_packages",
    multiple=True,
    metavar="NAME",
    help="An installed package that the supervisor's code may import, for example numpy "
    "(repeatable).",
)
_window_tokens = click.option(
    "--window-tokens",
    type=click.IntRange(min=256),
    metavar="N",
    help="The worker's context window, if it should be less than the model's.",
)
_max_lora_rank = click.option(
    "--max-lora-rank",
    type=click.IntRange(min=1, max=512),
    metavar="N",
    help="Take LoRA adapters up to this rank (default: none, or that of the highest --adapter).",
)
_chat_template = click.option(
    "--chat-template",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True),
    metavar="FILE",
    help="A chat template (Jinja) in place of the worker model's own; a base model has none.",
)
_question = _options(
    _config,
    _show_config,
    click.option(
        "--context",
        "-c",
        "paths",
        multiple=True,
        metavar="FILE|FOLDER|-",
        help="The text: a file, several (repeat it), a folder, or - for standard input.",
    ),
    click.option("--query", "-q", metavar="TEXT", help="The question."),
    click.option(
        "--supervisor",
        metavar="MODEL|local:MODEL|recipe:NAME|replay:RUN",
        show_default="recipe:find",
        help="Who writes the code: an API model; a model of the engine's own (--supervisor-gpus); "
        "a recipe, which needs no key: find (facts), map-reduce (summaries); or a recorded run, "
        "done again from its log: FOLDER, or FOLDER#ID for one of several.",
    ),
    click.option("--base-url", metavar="URL", help="The supervisor's OpenAI-compatible endpoint."),
    _rate("supervisor", "the supervisor's endpoint", "requests"),
    _rate("supervisor", "the supervisor's endpoint", "tokens"),
    click.option(
        "--max-iterations",
        type=click.IntRange(min=1),
        default=15,
        show_default=True,
        help="Turns of the supervisor.",
    ),
    click.option(
        "--output-limit",
        type=click.IntRange(min=100),
        metavar="N",
        help="Characters of a cell's output that the supervisor sees (default: 2000; 20000 in the "
        "dialect rlm).",
    ),
    click.option(
        "--show-context-chars",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="N",
        help="Send a text of at most N characters to the supervisor, which may then answer at "
        "once. 0: it never gets the text, only what its code prints.",
    ),
    _limit,
    _sandbox_package,
    click.option(
        "--primitive",
        "primitives",
        multiple=True,
        metavar="NAME",
        help="A ready function that the supervisor's code may call (repeatable): search (passages "
        "by words or a regular expression), retrieve (by meaning).",
    ),
    click.option(
        "--record",
        type=click.Choice(["off", "ids", "ids+logprobs"]),
        default="ids",
        show_default=True,
        help="What the log keeps of each completion beside its text.",
    ),
    click.option(
        "--answer-cache",
        type=click.Choice(["off", "run", "shared"]),
        default="off",
        show_default=True,
        help="Whether worker calls with temperature 0 or a seed are answered with what equal ones "
        "got before: never, in this run, or in any run of yours.",
    ),
    click.option(
        "--answer-schema",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE.json",
        help="The answer must fit the JSON schema in this file.",
    ),
    click.option(
        "--quote-check",
        is_flag=True,
        help="What the answer quotes must stand in the text word for word; the summary says where.",
    ),
    click.option(
        "--max-depth",
        type=click.IntRange(0, 4),
        default=1,
        show_default=True,
        help="Levels of sub-runs below the run, where its code can start some.",
    ),
    click.option(
        "--dialect",
        type=click.Choice(["native", "rlm"]),
        default="native",
        show_default=True,
        help="The names in the REPL and the words around it: distill's own, or those of Recursive "
        "Language Models, for models that were trained on them.",
    ),
    click.option(
        "--sub-supervisor",
        metavar="MODEL|recipe:NAME",
        help="Who writes the code of sub-runs (default: as --supervisor): a recipe, or a model at "
        "the supervisor's endpoint.",
    ),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Only say what the run would ask and cost: nothing is sent, no engine is started.",
    ),
    click.option(
        "--max-worker-calls",
        type=click.IntRange(min=0),
        metavar="N",
        help="The most worker calls of the run; what is beyond them is not sent.",
    ),
    click.option(
        "--max-tokens",
        type=click.IntRange(min=1),
        metavar="N",
        help="The most tokens, in and out, of supervisor and workers.",
    ),
    click.option(
        "--max-dollars",
        type=click.FloatRange(min=0),
        metavar="X",
        show_default="5 where a model's endpoint is paid",
        help="The most that the run may cost.",
    ),
    click.option(
        "--max-gpu-s",
        type=click.FloatRange(min=0, min_open=True),
        metavar="S",
        help="The most seconds of the worker servers' devices.",
    ),
    click.option(
        "--max-wall-s",
        type=click.FloatRange(min=0, min_open=True),
        metavar="S",
        help="The most seconds from the start of the run, the last turn included.",
    ),
    click.option(
        "--prices",
        type=click.Path(exists=True, dir_okay=False, resolve_path=True),
        metavar="FILE",
        help="What models cost, as a TOML file that goes before ~/.config/distill/prices.toml and "
        "the table that ships with distill.",
    ),
    click.option(
        "--log-dir",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        show_default="a new folder under ~/.local/state/distill",
        help="Where the trace goes.",
    ),
    click.option(
        "--resume",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="RUN",
        help="Go on with the run in this log folder that was cut off; only calls that its log "
        "does not have are asked. FOLDER#ID names one of several.",
    ),
    click.option(
        "--replay-answers",
        type=click.Choice(["log", "worker"]),
        default="log",
        show_default=True,
        help="Of --supervisor replay:RUN: whether worker calls get what they got (nothing is sent) "
        "or a worker is asked, to compare it with the recorded one under the same code.",
    ),
    click.option("--label", metavar="TEXT", help="A label for the run, in the log."),
    click.option(
        "--encoding",
        default="utf-8",
        show_default=True,
        metavar="NAME",
        help="The text's encoding.",
    ),
    click.option("--traceback", "show_traceback", is_flag=True, help="Show tracebacks of errors."),
)


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Ask questions of texts far longer than any model can read."""


@cli.command(epilog=EXIT_CODES)
@_question
@task_options
@click.option(
    "--worker",
    metavar="MODEL",
    show_default="SmolLM2-135M-Instruct",
    help="The worker model: a Hugging Face id or folder, or, with --worker-url, the name that the "
    "server knows it by.",
)
@click.option(
    "--worker-url",
    metavar="URL",
    help="Use an OpenAI-compatible server as worker; vLLM is then neither "
    "installed nor run. Its key, if it needs one, is in DISTILL_WORKER_KEY.",
)
@_rate("worker", "the server of --worker-url", "requests")
@_rate("worker", "the server of --worker-url", "tokens")
@click.option(
    "--gpus",
    metavar="0,1",
    help="One worker server on each of these GPUs; 0+1,2+3 for one on each pair. Indices, or UUIDs "
    "of GPUs and MIG slices as `nvidia-smi -L` lists them.",
)
@click.option(
    "--cores",
    metavar="0-3,4-7",
    help="Without a GPU: one worker server on each of these sets of CPU cores (default: one on "
    "all).",
)
@click.option(
    "--ray",
    is_flag=False,
    flag_value="",
    metavar="[HOST:PORT]",
    help="Workers on a Ray cluster: the one at this address; without one that of RAY_ADDRESS, else "
    "the one that `ray start` has made this machine part of, else a new one on this machine only.",
)
@click.option(
    "--num-workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --ray: how many worker servers (default: 1).",
)
@click.option(
    "--gpus-per-worker",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --ray: GPUs of each, tensor-parallel (default: 1).",
)
@click.option(
    "--cores-per-worker",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --ray: CPU cores of each, and no GPU.",
)
@click.option(
    "--supervisor-gpus",
    metavar="4+5",
    help="The GPUs of --supervisor local:MODEL, as --gpus. Without it (and --supervisor-cores) "
    "the workers, which then have the same model, answer for the supervisor as well.",
)
@click.option("--supervisor-cores", metavar="4-7", help="The same for CPU cores, as --cores.")
@_window_tokens
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="[NAME=]PATH",
    help="A LoRA adapter's folder (repeatable). The first answers in place of the bare model; "
    "each is asked by its name: worker(prompt, model=NAME).",
)
@_max_lora_rank
@_chat_template
@click.option(
    "--listen",
    metavar="tcp://ADDRESS:PORT",
    help="Let workers on other machines join, with a key: ADDRESS is an address, a name or an "
    "interface of this machine, or * for all; PORT may be 0, for a free one.",
)
@click.option(
    "--no-local-workers",
    "only_joined",
    is_flag=True,
    help="Start no worker here: wait for those that join.",
)
@click.option(
    "--sandbox",
    type=click.Choice(["auto", "namespaces", "landlock", "none"]),
    default="auto",
    show_default=True,
    metavar="TIER",
    help="How the supervisor's code is confined: the best way that works here, or this one and no "
    "other: namespaces, landlock (for containers), or none, for development only.",
)
@click.option(
    "--metrics-port",
    metavar="[ADDRESS:]PORT",
    help="Answer Prometheus there, at /metrics (address: 127.0.0.1 unless given; port 0: any).",
)
@click.option(
    "--prepare",
    is_flag=True,
    help="Only do all downloads and conversions, for a machine that will have no network.",
)
@click.option("--check-only", is_flag=True, hidden=True, help="Only check the arguments.")
def up(**options: Any) -> int:
    """Start an engine and answer a question; without --query it stays up for `distill run`.

    \b
    Examples:
      bin/distill-up -c examples/kjv.txt -q "Who was Moses' brother?"
      bin/distill-up --worker Qwen/Qwen3-4B --gpus 0,1
      bin/distill-up --worker Qwen/Qwen3-4B --ray --num-workers 8
      distill run -c report.txt -q "What was the revenue in 2024?"
    """  # noqa: D301  (\b is click's mark for a paragraph that is not rewrapped)
    from distill import commands

    if options.pop("show_config"):
        return _print_config()
    if options["query"] is None and options["tasks"] is None:
        # Settings of questions that will come: the engine only waits for them.
        context = click.get_current_context()
        options.update(dict.fromkeys(config_file.only_in_file(context, OF_A_QUESTION)))
    with _errors(options.pop("show_traceback")):
        return commands.up(**options)


@cli.command(epilog=EXIT_CODES)
@_question
@task_options
@click.option("--connect", metavar="ENDPOINT", help="The engine (default: your newest one).")
@click.option(
    "--adapter",
    metavar="NAME|[NAME=]PATH",
    help="The LoRA adapter that answers this run's calls: one that is loaded, by its name, or a "
    "folder (with a / in it), which is loaded first, as a new version of its name.",
)
def run(**options: Any) -> int:
    """Put a question to an engine that is up."""
    from distill import commands

    if options.pop("show_config"):
        return _print_config()
    with _errors(options.pop("show_traceback")):
        return commands.run(**options)


@cli.command(epilog=EXIT_CODES)
@_config
@click.option("--connect", metavar="ENDPOINT", help="The engine (default: your newest one).")
@click.option(
    "--worker",
    metavar="MODEL",
    help="A Hugging Face id or folder (default: SmolLM2-135M-Instruct). Another model than the "
    "engine's is asked by its name: worker(prompt, model=NAME).",
)
@click.option(
    "--gpu", metavar="ID", help="An index, or a UUID of a GPU or MIG slice; 0+1 for both as one."
)
@click.option("--cores", metavar="0+1", help="CPU cores instead, for example 0+1 or 0-3.")
@click.option("--name", metavar="NAME", help="What the logs call it (default: one of its own).")
@_window_tokens
@_max_lora_rank
@_chat_template
@click.option(
    "--key",
    metavar="FILE",
    help="The key for an engine on another machine (default: ~/.config/distill/keys/worker.key).",
)
@click.option(
    "--redial-s",
    type=click.IntRange(min=1),
    default=60,
    show_default=True,
    metavar="N",
    help="How long an engine on another machine is dialled, at first and when it was lost.",
)
@click.option("--check-only", is_flag=True, hidden=True, help="Only check the arguments.")
def worker(**options: Any) -> int:
    """Join an engine that is up with one more worker; Ctrl-C leaves it in order.

    \b
    Examples:
      bin/distill-worker --gpu 3
      bin/distill-worker --worker Qwen/Qwen3-8B --gpu 2+3
      bin/distill-worker --connect tcp://node1:5555 --worker Qwen/Qwen3-4B --gpu 0
    """  # noqa: D301  (\b is click's mark for a paragraph that is not rewrapped)
    from distill import joining

    with _errors(False):
        joining.join(**options)
    return 0


@cli.command(epilog=EXIT_CODES)
@click.argument("run_folder", metavar="[RUN]", required=False, type=click.Path(path_type=Path))
@click.option("--engine", "only_engine", is_flag=True, help="Check only the engine that is up.")
@click.option("--connect", metavar="ENDPOINT", help="Check only the engine there.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@_limit
@_sandbox_package
def doctor(
    run_folder: Path | None,
    only_engine: bool,
    connect: str | None,
    as_json: bool,
    limits: tuple[str, ...],
    sandbox_packages: tuple[str, ...],
) -> int:
    """Check this machine, an engine that is up, or the files of a run (RUN is a log folder).

    Green: it is there. Red (BAD): a run would fail, and the line below says what to do. Grey
    (--): nobody needs it, or not everybody. The exit code is 0 only if a run would work.
    """
    from distill import doctor as checks

    with _errors(False):
        if only_engine or connect is not None:
            if run_folder is not None:
                raise InputError("a run's files or an engine: leave out RUN, or --connect/--engine")
            return checks.check_engine(connect, as_json=as_json)
        if run_folder is not None:
            return checks.check_run(run_folder, as_json=as_json)
        return checks.check_machine(limits, sandbox_packages, as_json=as_json)


def _print_config() -> int:
    click.echo(config_file.shown(click.get_current_context()))
    return 0


class _Exit(Exception):
    """Ends a command with this exit code; its message has been printed."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@contextmanager
def _errors(show_traceback: bool) -> Iterator[None]:
    """Errors as one message on stderr and an exit code; the traceback only if asked for."""
    try:
        yield
    except DistillError as error:
        if show_traceback:
            traceback.print_exc()
        click.echo(f"distill: {visible(str(error))}", err=True)
        raise _Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        click.echo("distill: stopped", err=True)
        raise _Exit(130) from error
    except Exception as error:
        if show_traceback:
            traceback.print_exc()
        click.echo(
            f"distill failed: {type(error).__name__}: {visible(str(error))} "
            "(--traceback shows where)",
            err=True,
        )
        raise _Exit(DistillError.exit_code) from error


def main() -> int:
    """Run the command line; the exit code."""
    if sys.platform != "linux":
        click.echo(
            f"distill: this is {sys.platform}; distill needs Linux (its sandbox is the "
            "kernel's). Use WSL2, or a container: podman build -t distill . ",
            err=True,
        )
        return MachineError.exit_code
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # An answer found in minutes must not be lost to a terminal's character set.
            stream.reconfigure(errors="backslashreplace")
    try:
        code: Any = cli.main(prog_name="distill", standalone_mode=False)
    except _Exit as end:
        code = end.code
    except click.ClickException as error:
        error.show()
        code = InputError.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        code = 0
    _flush()
    return code if isinstance(code, int) else 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
