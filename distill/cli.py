"""The command line: ``distill up | run | worker | doctor | score | view | export | train``.

The answer alone goes to stdout; progress, evidence and errors go to stderr. Exit codes are
those of ``distill.errors``; 130 is Ctrl-C.
"""

import io
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import click

from distill import config_file, exit_codes
from distill.errors import InputError, MachineError
from distill.errors_told import Exit, errors_told
from distill.flags.errors import show_traceback
from distill.flags.export import export_options
from distill.flags.question import question
from distill.flags.sandbox import limit, sandbox_package, tier
from distill.flags.scoring import scoring
from distill.flags.settings import config
from distill.flags.workers import chat_template, max_lora_rank, window_tokens, workers
from distill.task_options import task_options
from distill.train_cli import train
from distill.version import __version__

OF_AN_ENDPOINT = ("base_url", "supervisor_requests_per_minute", "supervisor_tokens_per_minute")
"""Options of a supervisor that is a model of an API; a settings file has them for the next one."""
OF_A_LOG = ("log_dir", "label", "redact", "otlp", "otlp_content")
OF_A_QUESTION = ("supervisor", *OF_A_LOG, *OF_AN_ENDPOINT)
"""Options that an engine without a question does not take."""


@click.group(epilog=exit_codes.ASKING, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Ask questions of texts far longer than any model can read."""


@cli.command(epilog=exit_codes.ASKING)
@question
@task_options
@workers
@tier
@click.option(
    "--metrics-port",
    metavar="[ADDRESS:]PORT",
    help="Answer Prometheus there, at /metrics (address: 127.0.0.1 unless given; port 0: any).",
)
@click.option(
    "--prepare",
    "prepare_only",
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
    _forget_unasked(options)
    if options["worker_url"] is not None:  # whose devices nobody counts
        context = click.get_current_context()
        options.update(dict.fromkeys(config_file.only_in_file(context, ("max_gpu_s",))))
    with errors_told(options.pop("show_traceback")):
        return commands.up(**options)


@cli.command(epilog=exit_codes.ASKING)
@question
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
    _forget_unasked(options)
    with errors_told(options.pop("show_traceback")):
        return commands.run(**options)


@cli.command(epilog=exit_codes.WORKER)
@config
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
@window_tokens
@max_lora_rank
@chat_template
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
@show_traceback
def worker(**options: Any) -> int:
    """Join an engine that is up with one more worker; Ctrl-C leaves it in order.

    \b
    Examples:
      bin/distill-worker --gpu 3
      bin/distill-worker --worker Qwen/Qwen3-8B --gpu 2+3
      bin/distill-worker --connect tcp://node1:5555 --worker Qwen/Qwen3-4B --gpu 0
    """  # noqa: D301  (\b is click's mark for a paragraph that is not rewrapped)
    from distill import joining

    with errors_told(options.pop("show_traceback")):
        joining.join(**options)
    return 0


@cli.command(epilog=exit_codes.DOCTOR)
@click.argument("runs", metavar="[RUN]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--engine", "only_engine", is_flag=True, help="Check only the engine that is up.")
@click.option("--connect", metavar="ENDPOINT", help="Check only the engine there.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.option(
    "--provenance",
    is_flag=True,
    help="Of a run's files: also what of the text was read, with which instructions, and where "
    "the workers' answers went.",
)
@limit
@sandbox_package
@show_traceback
def doctor(runs: tuple[Path, ...], show_traceback: bool, **options: Any) -> int:
    """Check this machine, an engine that is up, or logs. RUN is a log folder, or FOLDER#ID.

    Green: it is there. Red (BAD): a run would fail, and the line below says what to do. Grey
    (--): nobody needs it, or not everybody. The exit code is 0 only if a run would work.
    """
    from distill import doctor as checks

    with errors_told(show_traceback):
        return checks.check(runs, **options)


@cli.command(epilog=exit_codes.SCORE)
@scoring
def score(runs: tuple[str, ...], **options: Any) -> int:
    """Score recorded runs, and compare supervisors and workers. RUN is a log folder, or FOLDER#ID.

    Scores are appended to the logs; what a scorer has scored already is not scored again, so the
    same command goes on where it was stopped.

    \b
    Examples:
      distill score examples/tasks.results.logs --scorer contains
      distill score runs/a runs/b --scorer judge:gpt-5 --labels labels.jsonl --max-dollars 2
      distill score runs/a runs/b --picture scores.svg
    """  # noqa: D301  (\b is click's mark for a paragraph that is not rewrapped)
    from distill.score_command import score_runs

    with errors_told(options.pop("show_traceback")):
        return score_runs(runs, **options)


@cli.command(epilog=exit_codes.EXPORT)
@export_options
def export(**options: Any) -> int:
    """Write runs down as a data set for training. RUN is a log folder, or FOLDER#ID.

    \b
    Examples:
      distill export runs/kjv.logs -f worker-sft-text --dedup -o data/worker
      distill export runs/kjv.logs -f few-shot --select correct --rows 8 -o data/few-shot
    """  # noqa: D301
    from distill.exports import command

    with errors_told(options.pop("show_traceback")):
        return command.run(**options)


cli.add_command(train)


@cli.command(epilog=exit_codes.VIEW)
@click.argument("folders", metavar="[RUN]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Serve the page at this port of 127.0.0.1 (default: any that is free).",
)
@click.option("--open", "opens", is_flag=True, help="Open it in a browser.")
@click.option(
    "--export",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the page and all its data into one HTML file instead; only another such page may "
    "be overwritten.",
)
@show_traceback
def view(
    folders: tuple[Path, ...],
    port: int | None,
    opens: bool,
    target: Path | None,
    show_traceback: bool,
) -> int:
    """Look at runs in a browser, also while they go on (RUN is a log folder, or FOLDER#RUN;
    default: the newest folder).

    \b
    Examples:
      distill view runs/today
      distill view runs/today --export page.html
    """  # noqa: D301  (as above)
    from distill.view import command

    with errors_told(show_traceback):
        return command.view(folders, port=port, opens=opens, target=target)


def _forget_unasked(options: dict[str, Any]) -> None:
    """Leave out what only the file says, of an endpoint that this supervisor does not have."""
    from distill.supervisors import asks_endpoint

    options["base_url"] = options["base_url"] or None
    if not asks_endpoint(options["supervisor"]):
        context = click.get_current_context()
        options.update(dict.fromkeys(config_file.only_in_file(context, OF_AN_ENDPOINT)))


def _print_config() -> int:
    click.echo(config_file.shown(click.get_current_context()))
    return 0


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
    except Exit as end:
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
