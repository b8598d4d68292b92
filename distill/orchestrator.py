"""``run``: one question about one text, from the first message to the answer and its trace."""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from distill.answers import rules_from
from distill.budget import Budget
from distill.errors import InputError
from distill.limits import check
from distill.models import ModelHandler, model_name
from distill.opening import Opening, checked
from distill.otlp import Collector, collector
from distill.packages import described
from distill.prices import Prices, price_table
from distill.progress import Progress
from distill.protocol.jail_link import Limits
from distill.protocol.message import Record
from distill.protocol.sandbox_link import Wanted
from distill.question import Question, check_question
from distill.ready_primitives import Primitives, check_installed, named
from distill.redaction import NOTHING, Redaction
from distill.repl import REPL
from distill.rollout import Rollout, run_name
from distill.run_options import Options
from distill.run_repl import SEED_NAMES
from distill.run_result import RunResult
from distill.run_spans import following
from distill.spending import settled
from distill.subruns import Family
from distill.supervisor import background, dialects, driver
from distill.supervisor.answer_cache import AnswerCaching
from distill.supervisor.backends import Backend, HandlerBackend
from distill.supervisor.dialects import Dialect, DialectName
from distill.supervisor.journal import Journal
from distill.supervisor.run_log import RunLog
from distill.supervisor.text import printable
from distill.supervisors import RecordedSupervisor, supervisor_beside, supervisor_from
from distill.user_folders import state_folder

MAX_DEPTH = 4
"""Levels of sub-runs: each may have ``sub_questions.AT_ONCE`` jails at once."""


def default_log_dir() -> Path:
    """Where runs are logged if nobody says: a fresh folder under the user's state folder."""
    return state_folder() / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


async def answer_on_loop(
    query: str,
    context: str | list[Any] | dict[str, Any],
    supervisor: ModelHandler | str,
    worker: ModelHandler | Backend | None,
    *,
    max_iterations: int = 15,
    log_dir: str | Path | None = None,
    output_limit: int | None = None,
    worker_ctx_k: int | None = None,
    label: str | None = None,
    primitives: Primitives | None = None,
    repl_class: type[REPL] = REPL,
    messages: Opening | None = None,
    record: Record = "ids",
    worker_options: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    sandbox_packages: Sequence[str] = (),
    sandbox: Wanted = "auto",
    sources: Sequence[str] = (),
    answer_cache: AnswerCaching = "off",
    answer_schema: Any = None,
    answer_check: Callable[..., Any] | None = None,
    quote_check: bool = False,
    max_depth: int = 1,
    sub_supervisor: ModelHandler | str | None = None,
    dialect: DialectName = "native",
    budget: Budget | None = None,
    prices: Prices | None = None,
    show_context_chars: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
    on_text: Callable[[str], None] | None = None,
    redact: Sequence[str] = (),
    otlp: str | None = None,
    otlp_content: bool = False,
) -> RunResult:
    """Answer ``query`` about ``context`` with the code that ``supervisor`` writes.

    ``supervisor`` is a handler, or a name as the command line takes it (``"recipe:find"``).
    - ``worker_ctx_k`` (thousands of tokens) is asked of the worker unless given.
    - ``output_limit``: characters of a cell's output that are shown (None: the dialect's own).
    - ``messages`` replace ``build_system_prompt``'s: a list, or a function that is called with the
      context, the question and the same keywords, and returns one.
    - ``primitives``: further functions of the REPL (see ``distill.primitive``) by name, or names of
      ready ones: ``["search"]``.
    - ``worker_options``: default sampling parameters of worker calls.
    - ``record``: how much of each completion is logged.
    - ``limits``: the sandbox's; ``sandbox_packages``: names of installed packages that the code may
      import; ``sandbox``: the tier of its jail ("auto": the best that works; a named one never
      becomes another; "none", for development, is no jail).
    - ``sources``: the context's files, for the log.
    - ``answer_cache``: whether greedy and seeded worker calls are answered with what equal ones got
      before: never, within the run, or over all runs of this user ("shared", for workers whose
      weights are known).
    - ``max_depth``: levels of sub-runs below this run, where its code has a function for them
      (``primitives=["supervisor"]``); ``sub_supervisor``: who writes their code (None:
      ``supervisor``).
    - ``dialect``: "rlm" speaks as Recursive Language Models do (docs/rlm.md).
    - ``budget`` is what the run may use, with its sub-runs (without one of dollars a run on paid
      endpoints may cost DEFAULT_DOLLARS).
    - ``prices`` go before the user's and distill's own: a TOML file, or what it holds
      (distill/prices.toml shows which).
    - ``show_context_chars``: a text of at most so many characters is in the supervisor's first
      message, so that it may answer at once. 0, the default: never, for the supervisor is usually
      another's machine, which can't keep what it is not sent; only what the code prints leaves this
      one. Sub-runs show the texts that they are given alike.
    - ``answer_schema``, ``quote_check``, ``answer_check``: an answer counts once it fits the JSON
      schema (or a class that has one), its quotations stand in the context, and
      ``answer_check(answer)`` or ``answer_check(answer, context)`` has neither raised nor returned
      a text or False; what it says is raised in the cell that called FINAL.
    - ``on_progress`` is called from the background loop and must not block. So is ``on_text``, with
      each piece of the supervisor's reply as it comes, and with an empty one where a reply begins
      (maybe again, after a try that failed). What they raise is logged once, and stops nothing.

    - ``redact``: patterns whose matches are blotted out of all that is written ("email", "phone",
      "card", "iban", "ip", "secret", "re:EXPRESSION"; docs/privacy.md), not of what is sent. Such a
      run can't be resumed or replayed.
    - ``otlp``: the address of an OpenTelemetry collector that gets the run's spans as it goes;
      ``otlp_content``: with its texts (docs/monitoring.md).

    Both models are made ready first (``ModelHandler.prepare``). Raises InputError, SandboxError,
    ModelError; whatever it raises, the trace is complete.
    """
    check_question(query, context)
    _check_given(label, messages, limits, show_context_chars)
    _check_limits(max_iterations, output_limit, max_depth)
    chosen = chosen_primitives(primitives)
    rules = rules_from(answer_schema, quote_check, answer_check)
    _check_choice("dialect", dialect, DialectName)
    _check_choice("sandbox", sandbox, Wanted)
    _check_choice("answer_cache", answer_cache, AnswerCaching)
    described(sandbox_packages)
    redaction, spans = Redaction.of(redact), collector(otlp, content=otlp_content)
    table = price_table(prices)
    host = driver.shared()
    handler = await ready_supervisor(host, supervisor)
    if isinstance(handler, RecordedSupervisor):
        raise InputError("a recorded run has its own question: distill.replay(RUN) does it again")
    below = await supervisor_below(host, sub_supervisor, handler)
    speech = dialects.dialect(dialect)
    chosen = _with_dialect(chosen, speech)
    backend = await ready_backend(host, worker)
    _check_cache(answer_cache, backend, redaction)
    budget, table = settled(checked_budget(budget), table, backend, handler, below)
    options = Options(
        max_iterations=max_iterations,
        output_limit=output_limit or speech.output_limit,
        primitives=chosen,
        repl_class=repl_class,
        record=record,
        worker_options=dict(worker_options or {}),
        limits=limits,
        packages=tuple(sandbox_packages),
        sandbox=sandbox,
        sources=tuple(sources),
        answer_cache=answer_cache,
        max_depth=max_depth,
        sub_supervisor=None if below is None else model_name(below),
        dialect=dialect,
        budget=budget,
        prices=table,
        show_context_chars=show_context_chars,
        on_progress=on_progress,
        on_text=on_text,
        answer_rules=rules,
        redaction=redaction,
    )
    run_id, folder = run_name(), log_dir if log_dir is not None else default_log_dir()
    async with journal_of(host, folder, run_id, redaction, spans) as journal:
        family = family_of(host, options, below or handler, backend, messages)
        log, question = RunLog(journal, run_id), Question(query, context)
        asked = Rollout(host, log, question, options, family.sub_runs())
        await asked.prepare(handler, backend)
        return await asked.ask(label, worker_ctx_k, messages)


@contextlib.asynccontextmanager
async def journal_of(
    host: driver.Driver,
    folder: str | Path,
    run_id: str,
    redaction: Redaction = NOTHING,
    spans: Collector | None = None,
) -> AsyncIterator[Journal]:
    """The journal, for this run alone; ``spans`` gets those of the run and its sub-runs.

    Raises InputError: the run is under way already.
    """
    async with host.under_way(run_id):
        journal = host.open_journal(Path(folder), redaction)
        try:
            with following(journal, run_id, spans):
                yield journal
        finally:
            host.release_journal(journal)


run = background.waiting(answer_on_loop)
run.__name__ = run.__qualname__ = "run"
answer_on_loop.__qualname__ = "run"  # what Python calls it when its arguments are wrong
arun = background.arriving(answer_on_loop)
arun.__name__ = arun.__qualname__ = "arun"


async def ready_supervisor(host: driver.Driver, given: Any) -> ModelHandler:
    """The supervisor, made ready; by its name where it is one (which may ask its endpoint)."""
    if isinstance(given, str):
        given = await driver.in_thread(host, supervisor_from, given)
    if not isinstance(given, ModelHandler):
        raise InputError(
            "the supervisor must be a ModelHandler, for example OpenAIHandler(…), or a name such "
            f"as 'recipe:find', not {type(given).__name__}"
        )
    await driver.in_thread(host, given.prepare)
    return given


async def supervisor_below(
    host: driver.Driver, given: ModelHandler | str | None, supervisor: ModelHandler
) -> ModelHandler | None:
    """The supervisor of sub-runs, if it is another."""
    if isinstance(given, str):
        given = await driver.in_thread(host, supervisor_beside, supervisor, given)
    return None if given is None else await ready_supervisor(host, given)


async def ready_backend(host: driver.Driver, worker: Any) -> Backend:
    """What answers worker calls: a handler, made ready, or a fleet."""
    if isinstance(worker, ModelHandler):
        await driver.in_thread(host, worker.prepare)
        return HandlerBackend(host, worker)
    if not isinstance(worker, Backend):
        raise InputError(
            "the worker must be a ModelHandler, for example VLLMHandler('default'), "
            f"not {type(worker).__name__}"
        )
    return worker


def family_of(
    host: driver.Driver,
    options: Options,
    supervisor: ModelHandler,
    backend: Backend,
    messages: Any = None,
) -> Family:
    """What sub-runs of a run share. Messages that are no function are for its question alone."""
    return Family.of_depth(
        options.max_depth,
        host=host,
        supervisor=None if isinstance(supervisor, RecordedSupervisor) else supervisor,
        backend=backend,
        messages=messages if callable(messages) else None,
    )


def chosen_primitives(given: Any) -> dict[str, Callable[..., Any] | str]:
    """The functions and ready primitives that were asked for, by the names that cells get."""
    primitives: dict[Any, Any] = named(given)
    for name, value in primitives.items():
        is_named = isinstance(name, str) and name.isidentifier()
        if not (is_named and (callable(value) or isinstance(value, str))):
            raise InputError(f"primitives[{name!r}] must be a function under a name of Python's")
        if name in (*SEED_NAMES, "FINAL"):
            raise InputError(f"primitives[{name!r}] would replace a name that every run has")
    check_installed(primitives)
    return primitives


def _with_dialect(
    primitives: dict[str, Callable[..., Any] | str], speech: Dialect
) -> dict[str, Callable[..., Any] | str]:
    """The primitives with those that the dialect needs. Raises InputError: they have its names."""
    if taken := speech.names & primitives.keys():
        raise InputError(f"primitives {sorted(taken)} would replace names of {speech.name}'s")
    return {**speech.primitives, **primitives}


def _check_choice(name: str, given: Any, choices: Any) -> None:
    if given not in get_args(choices):
        raise InputError(f"{name} is one of {', '.join(get_args(choices))}, not {given!r}")


def _check_given(
    label: str | None, messages: Opening | None, limits: Limits | None, show_context_chars: int
) -> None:
    """Raise InputError for what the run could not be begun with."""
    if label is not None and printable(label) != label:
        raise InputError("the label has a lone surrogate: it was not decoded as it was written")
    if show_context_chars < 0 or (show_context_chars and messages is not None):
        raise InputError(
            "show_context_chars is a number of characters from 0 on, and for the prompt that is "
            "built: messages= are sent as they are"
        )
    if messages is not None and not callable(messages):
        checked(messages)
    if limits is not None:
        check(limits)


def _check_cache(answer_cache: AnswerCaching, backend: Backend, redaction: Redaction) -> None:
    if answer_cache == "shared" and redaction:
        raise InputError(
            "an answer cache that runs share keeps prompts and answers as they are, and redact "
            'wants none of them written so: use answer_cache="run"'
        )
    if answer_cache == "shared" and backend.card(None) is None:
        raise InputError(
            "an answer cache that runs share is for workers of this engine: of an endpoint's model "
            'nobody knows whether it is still the same; use answer_cache="run"'
        )


def checked_budget(budget: Any) -> Budget:
    """The budget, or one without limits. Raises InputError: it is none."""
    if not isinstance(budget, Budget | None):
        raise InputError(f"budget must be a distill.Budget, not {type(budget).__name__}")
    return budget or Budget()


def _check_limits(max_iterations: int, output_limit: int | None, max_depth: int) -> None:
    if max_iterations < 1:
        raise InputError("max_iterations must be at least 1")
    if not 0 <= max_depth <= MAX_DEPTH:
        raise InputError(f"max_depth, levels of sub-runs, is 0 to {MAX_DEPTH}, not {max_depth}")
    if output_limit is not None and output_limit < 100:
        raise InputError("output_limit must be at least 100 characters")
