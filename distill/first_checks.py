"""What can be wrong with a command, and is cheap to see before anything expensive starts."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from distill.ask_options import NO_MODEL, NO_REPLAY, AskOptions
from distill.budget import Budget
from distill.engine_workers import check_again
from distill.errors import InputError
from distill.inputs import read_context
from distill.local_supervisor import check_local
from distill.models import ModelHandler
from distill.option_checks import check_first_turn, check_redaction
from distill.orchestrator import default_log_dir
from distill.otlp import collector
from distill.prices import price_table
from distill.question import Question
from distill.rates import UNLIMITED, Rates
from distill.ready_primitives import named
from distill.redaction import Redaction
from distill.resumable import check_resumable
from distill.supervisor.text import printable
from distill.supervisor.workers import SUPERVISOR_PREFIX
from distill.supervisors import is_replay, supervisor_from
from distill.task_commands import check_tasks
from distill.task_options import Many
from distill.user_folders import make_private
from distill.worker_settings import WorkerSettings

DECIDED = frozenset({*AskOptions.__struct_fields__, "encoding"}) - frozenset(
    ("adapter", "label", "log_dir", "otlp", "otlp_content", "replay_answers")
)
"""Options that a recorded run has from its log."""
LIMITS = frozenset(f"max_{kind}" for kind in Budget.__slots__)
"""Of these, what may be changed when a run goes on."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line asks: one question, many, or a recorded run; or nothing yet.

    ``rates`` are those of the supervisor's endpoint.
    """

    many: Many | None
    paths: tuple[str, ...]
    query: str | None
    supervisor: str | None
    base_url: str | None
    options: dict[str, Any]
    rates: Rates = UNLIMITED

    @property
    def is_recorded(self) -> bool:
        """Whether the question and the text are those of a recorded run."""
        return is_replay(self.supervisor) or self.options.get("resume") is not None

    @property
    def is_one(self) -> bool:
        """Whether it is one question, of a recorded run or not."""
        return self.many is None and (self.query is not None or self.is_recorded)

    @property
    def is_local(self) -> bool:
        """Whether the supervisor is a model of the engine's own."""
        return (self.supervisor or "").startswith(SUPERVISOR_PREFIX)

    @property
    def given(self) -> dict[str, Any]:
        """The run's options without those that nobody set."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in self.options.items()
            if value is not None
        }


def checked(
    asked: Asked, workers: WorkerSettings, *, looks_only: bool = False
) -> ModelHandler | None:
    """The supervisor, None for a local one, when one question or many have been checked.

    All that can be wrong and is cheap to see, before ``workers`` or anything else that is expensive
    starts.
    """
    price_table(asked.options["prices"])
    check_written(asked.options)
    if asked.many is not None:
        check_folder(check_tasks(asked.many, asked.options, asked.supervisor))
        return _named_supervisor(asked)
    named(asked.options["primitives"])
    check_recorded(asked)
    if asked.is_recorded:
        return _check_again(asked, workers)
    return _check_new(asked, looks_only=looks_only)


def check_written(options: dict[str, Any]) -> None:
    """Raise InputError for patterns that can't be redacted, a cache that would keep what they find,
    and a collector that is none.
    """
    check_redaction(options["answer_cache"], Redaction.of(options["redact"]))
    collector(options["otlp"], content=options["otlp_content"])


def _check_new(asked: Asked, *, looks_only: bool) -> ModelHandler | None:
    """The supervisor of a new question, if there is one."""
    options, context = asked.options, None
    if asked.query is None:
        _check_waiting(asked)
    else:
        if not asked.query.strip():
            raise InputError("the question is empty")
        if asked.paths:
            context, _ = read_context(asked.paths, options["encoding"], looks_only=looks_only)
    check_folder(options.get("log_dir") or default_log_dir().parent)
    supervisor = _named_supervisor(asked)
    if context is not None and asked.query is not None and not looks_only:
        check_first_turn(
            supervisor or asked.supervisor or "",
            Budget.taken_from(dict(options)),
            price_table(options["prices"]),
            Question(asked.query, context),
            dialect=options["dialect"],
            show_context_chars=options["show_context_chars"],
        )
    return supervisor


def _check_again(asked: Asked, workers: WorkerSettings) -> ModelHandler | None:
    """The supervisor that a recorded run is given; None: its own, or a local one."""
    if asked.options.get("resume") is not None:
        check_again(check_resumable(asked.options["resume"]), workers)
    if asked.supervisor is None and (asked.rates.are_given or asked.base_url is not None):
        raise InputError(NO_MODEL)
    return None if asked.supervisor is None else _named_supervisor(asked)


def _check_waiting(asked: Asked) -> None:
    """Raise InputError for what an engine that waits for questions does not take."""
    if asked.paths:
        raise InputError("a text but no question: add --query TEXT")
    options = asked.options
    of_a_question = (
        (asked.supervisor and not asked.is_local)
        or asked.base_url
        or asked.rates.are_given
        or options.get("log_dir")
        or options["label"]
        or options["answer_schema"] is not None
        or options["quote_check"]
        or options["redact"]
        or options["otlp"]
    )
    if of_a_question:
        raise InputError(
            "without --query the engine only waits for questions: give --supervisor, --base-url, "
            "--supervisor-…-per-minute, --log-dir, --label, --answer-schema, --quote-check, "
            "--redact and --otlp to `distill run`"
        )


def _named_supervisor(asked: Asked) -> ModelHandler | None:
    """The supervisor; None for a local one, which is asked of the engine once it is up."""
    if asked.is_local:
        check_local(asked.base_url, asked.rates)
        return None
    return supervisor_from(asked.supervisor, asked.base_url, rates=asked.rates)


def check_recorded(asked: Asked) -> None:
    """Raise InputError for what a recorded run can't be given, and for what only it can be."""
    replayed, resumed = is_replay(asked.supervisor), asked.options.get("resume") is not None
    if replayed and resumed:
        raise InputError("--resume goes on with a run, --supervisor replay:… does one again")
    if (replayed or resumed) and (asked.paths or asked.query is not None):
        raise InputError("a recorded run has its own question and text: leave out -c and -q")
    if asked.options["replay_answers"] != "log" and not replayed:
        raise InputError(NO_REPLAY)
    if (replayed or resumed) and (typed := _typed(DECIDED - LIMITS if resumed else DECIDED)):
        raise InputError(f"a recorded run has its own options: leave out {', '.join(typed)}")
    if resumed and asked.options.get("log_dir") is not None:
        raise InputError("--resume appends to the run's own log folder: leave out --log-dir")


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
