"""``run``: one question about one text, from the first message to the answer and its trace."""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.answers import rules_from
from distill.budget import Budget
from distill.errors import InputError
from distill.models import ModelHandler
from distill.opening import Opening
from distill.option_checks import (
    check_cache,
    check_first_turn,
    check_options,
    checked_budget,
    chosen_dialect,
    chosen_primitives,
    with_dialect,
)
from distill.otlp import Collector, collector
from distill.packages import package_names
from distill.prices import Prices, price_table
from distill.progress import Progress
from distill.protocol.jail_link import Limits
from distill.protocol.message import Record
from distill.protocol.sandbox_link import Wanted
from distill.question import Question, check_question
from distill.ready_primitives import Primitives
from distill.redaction import NOTHING, Redaction
from distill.repl import REPL
from distill.rollout import run_name
from distill.run_models import RunModels, check_worker, ready_backend, ready_supervisors
from distill.run_options import Options
from distill.run_result import RunResult
from distill.run_spans import following
from distill.supervisor import background, driver
from distill.supervisor.answer_cache import AnswerCaching
from distill.supervisor.backends import Backend
from distill.supervisor.dialects import DialectName
from distill.supervisor.journal import Journal
from distill.supervisor.run_log import RunLog
from distill.supervisors import is_replay
from distill.traces import Run
from distill.user_folders import state_folder


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
    - ``dialect``: "rlm" speaks as Recursive Language Models do (docs/rlm.md), "brief" has a
      short prompt for small models.
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
    if is_replay(supervisor):
        raise InputError("a recorded run has its own question: distill.replay(RUN) does it again")
    speech = chosen_dialect(dialect)
    options = Options(
        max_iterations=max_iterations,
        output_limit=speech.output_limit if output_limit is None else output_limit,
        primitives=with_dialect(chosen_primitives(primitives), speech),
        repl_class=repl_class,
        record=record,
        worker_options=dict(worker_options or {}),
        limits=limits,
        packages=package_names(sandbox_packages),
        sandbox=sandbox,
        sources=tuple(sources),
        answer_cache=answer_cache,
        max_depth=max_depth,
        dialect=dialect,
        budget=checked_budget(budget),
        prices=price_table(prices),
        show_context_chars=show_context_chars,
        on_progress=on_progress,
        on_text=on_text,
        answer_rules=rules_from(answer_schema, quote_check, answer_check),
        redaction=Redaction.of(redact),
    )
    check_options(options, label, messages)
    check_worker(worker)
    spans = collector(otlp, content=otlp_content)
    host, question = driver.shared(), Question(query, context)
    handler, below = await ready_supervisors(host, supervisor, sub_supervisor)
    check_first_turn(
        handler,
        options.budget,
        options.prices,
        question,
        messages,
        dialect=dialect,
        show_context_chars=show_context_chars,
    )
    models = RunModels(handler, below, await ready_backend(host, worker))
    check_cache(answer_cache, models.backend)
    options = models.settled(options)
    run_id, folder = run_name(), log_dir if log_dir is not None else default_log_dir()
    async with journal_of(host, folder, run_id, options.redaction, spans) as journal:
        asked = await models.rollout(host, RunLog(journal, run_id), question, options, messages)
        return await asked.ask(label, worker_ctx_k, messages)


@contextlib.asynccontextmanager
async def journal_of(
    host: driver.Driver,
    folder: str | Path,
    run_id: str,
    redaction: Redaction = NOTHING,
    spans: Collector | None = None,
    before: Run | None = None,
) -> AsyncIterator[Journal]:
    """The journal, for this run alone; ``spans`` gets those of the run and its sub-runs.

    ``before`` is what was logged of a run that goes on. Raises InputError: the run is under way
    already.
    """
    async with host.under_way(run_id):
        journal = host.open_journal(Path(folder), redaction)
        try:
            with following(journal, run_id, spans, before):
                yield journal
        finally:
            journal.leave(run_id)
            host.release_journal(journal)


run = background.waiting(answer_on_loop)
run.__name__ = run.__qualname__ = "run"
answer_on_loop.__qualname__ = "run"  # what Python calls it when its arguments are wrong
arun = background.arriving(answer_on_loop)
arun.__name__ = arun.__qualname__ = "arun"
