"""What can be wrong with a command, and is cheap to see before anything expensive starts."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from distill.again import check_resumable
from distill.ask_options import NO_MODEL, NO_REPLAY, AskOptions
from distill.budget import Budget
from distill.errors import InputError
from distill.inputs import read_context
from distill.local_supervisor import check_local
from distill.models import ModelHandler
from distill.orchestrator import default_log_dir
from distill.otlp import collector
from distill.prices import price_table
from distill.rates import Rates
from distill.ready_primitives import named
from distill.redaction import Redaction
from distill.supervisor.text import printable
from distill.supervisor.workers import SUPERVISOR_PREFIX
from distill.supervisors import REPLAY, supervisor_from
from distill.task_commands import check_tasks
from distill.task_options import Many
from distill.user_folders import make_private

DECIDED = frozenset({*AskOptions.__struct_fields__, "encoding"}) - frozenset(
    ("adapter", "label", "log_dir", "otlp", "otlp_content", "replay_answers")
)
"""Options that a recorded run has from its log."""
LIMITS = frozenset(f"max_{kind}" for kind in Budget.__slots__)
"""Of these, what may be changed when a run goes on."""


def checked(
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
    price_table(options["prices"])
    check_written(options)
    if many is None:
        return _check_first(
            paths, query, supervisor, base_url, rates, options, looks_only=looks_only
        )
    check_folder(check_tasks(many, options))
    return _named_supervisor(supervisor, base_url, rates)


def check_written(options: dict[str, Any]) -> None:
    """Raise InputError for patterns that can't be redacted, and a collector that is none."""
    Redaction.of(options["redact"])
    collector(options["otlp"], content=options["otlp_content"])


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
    if is_recorded(paths, query, supervisor, options):
        if options.get("resume") is not None:
            check_resumable(options["resume"])
        if supervisor is None and (rates.are_given or base_url is not None):
            raise InputError(NO_MODEL)
        if supervisor is None:
            return None
        return _named_supervisor(supervisor, base_url, rates)
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
    check_folder(options.get("log_dir") or default_log_dir().parent)
    return _named_supervisor(supervisor, base_url, rates)


def _named_supervisor(
    supervisor: str | None, base_url: str | None, rates: Rates
) -> ModelHandler | None:
    """The supervisor; None for a local one, which is asked of the engine once it is up."""
    if supervisor is not None and supervisor.startswith(SUPERVISOR_PREFIX):
        check_local(base_url, rates)
        return None
    return supervisor_from(supervisor, base_url, rates=rates)


def is_recorded(
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


def check_words(query: str | None, paths: Sequence[str]) -> None:
    """Raise InputError for a question without a text, and for what is no text at all."""
    check_texts(query, *paths)
    if query is not None and not paths:
        raise InputError("a question but no text: add --context FILE, a folder, or -")


def check_texts(*texts: str | None) -> None:
    """Bytes of the command line that are not UTF-8 arrive as lone surrogates."""
    for text in texts:
        if text is not None and printable(text) != text:
            raise InputError(f"{text!r} is not UTF-8: check the terminal's locale")


def check_folder(folder: Path) -> None:
    """Raise InputError for a log folder that can't be made, or written to."""
    try:
        make_private(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"the log folder {folder} can't be used: {error.strerror or error}. "
            "Choose another with --log-dir"
        ) from error
