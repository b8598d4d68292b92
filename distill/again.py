"""``resume`` and ``replay``: a recorded run goes on, or is done again."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distill.answers import rules_from
from distill.budget import Budget
from distill.limits import Limits
from distill.limits import check as check_limits
from distill.models import ModelHandler
from distill.opening import Opening
from distill.option_checks import checked_budget, chosen_primitives
from distill.orchestrator import default_log_dir, journal_of
from distill.otlp import collector
from distill.prices import price_table
from distill.primitives import primitive
from distill.progress import Progress
from distill.protocol.sandbox_link import Wanted
from distill.question import Question
from distill.ready_primitives import Primitives, ready_of
from distill.recorded_options import read_back
from distill.repl import REPL
from distill.resumable import check_resumable
from distill.rollout import run_name
from distill.run_models import RunModels, check_worker, ready_backend, ready_supervisors
from distill.run_options import Options
from distill.run_repl import SEED_NAMES
from distill.run_result import RunResult
from distill.supervisor import background, driver
from distill.supervisor.backends import Backend, RecordedBackend
from distill.supervisor.recording import Answers, ReplayOf
from distill.supervisor.run_log import RunLog
from distill.supervisors import (
    RecordedSupervisor,
    recorded_run,
    supervisor_again,
)
from distill.traces import Run
from distill.traces.records import RunStart


async def resume_on_loop(
    log_dir: str | Path,
    supervisor: ModelHandler | str | None = None,
    worker: ModelHandler | Backend | None = None,
    *,
    run_id: str | None = None,
    primitives: Primitives | None = None,
    repl_class: type[REPL] = REPL,
    limits: Limits | None = None,
    answer_check: Callable[..., Any] | None = None,
    sub_supervisor: ModelHandler | str | None = None,
    messages: Opening | None = None,
    sandbox: Wanted = "auto",
    budget: Budget | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_text: Callable[[str], None] | None = None,
    otlp: str | None = None,
    otlp_content: bool = False,
) -> RunResult:
    """Go on with a run that was cut off: its driver was killed, it failed or was cancelled.

    ``log_dir`` holds its log, which the rest is appended to; where the run is not the folder's
    last, it is ``FOLDER#RUN``, or ``run_id`` names it. The session comes back as after a killed
    cell, the conversation as it was sent; only worker calls that are not in the log are asked.
    ``supervisor`` and ``sub_supervisor`` are the recorded ones if None; functions (``primitives``,
    ``repl_class``, ``answer_check``, ``messages`` for sub-runs) must be given again, all other
    options are the run's own.
    ``sandbox`` "auto" is the tier that it asked for; that it had no jail is never taken from a log.
    What was used before counts against the run's budget, in which the limits of ``budget`` take the
    place of its own.

    Raises InputError for a run that can't go on (one that was redacted can't), and what ``run``
    raises.
    """
    given = chosen_primitives(primitives)
    spans = collector(otlp, content=otlp_content)
    own_limits = {} if limits is None else {"limits": check_limits(limits)}
    own_budget = checked_budget(budget)
    host = driver.shared()
    check = functools.partial(
        check_resumable,
        primitives=given,
        repl_class=repl_class,
        answer_check=answer_check,
        messages=messages,
    )
    recorded = await driver.in_thread(host, check, log_dir, run_id)
    check_worker(worker)
    supervisor = supervisor or await driver.in_thread(host, _supervisor_of, recorded)
    sub_supervisor = sub_supervisor or _start(recorded).options.get("sub_supervisor")
    supervisors = await ready_supervisors(host, supervisor, sub_supervisor)
    models = RunModels(*supervisors, await ready_backend(host, worker))
    logged = functools.partial(journal_of, spans=spans, before=recorded)
    async with logged(host, recorded.folder, recorded.id) as journal:
        # Again, now that nobody else writes to it.
        recorded = await driver.in_thread(host, check, recorded.folder, recorded.id)
        options = _options_of(
            recorded,
            primitives={**ready_of(_start(recorded).options), **given},
            repl_class=repl_class,
            sandbox=sandbox,
            answer_check=answer_check,
            on_progress=on_progress,
            on_text=on_text,
            **own_limits,
        )
        options = dataclasses.replace(options, budget=options.budget.replaced(own_budget))
        options = models.settled(options)
        question = Question(_start(recorded).query, recorded.context())
        log = RunLog(journal, recorded.id, len(recorded.messages))
        asked = await models.rollout(host, log, question, options, messages, recorded)
        return await asked.go_on(recorded)


async def replay_on_loop(
    run: str | Path | Run,
    worker: ModelHandler | Backend | None = None,
    *,
    log_dir: str | Path | None = None,
    label: str | None = None,
    primitives: Primitives | None = None,
    repl_class: type[REPL] = REPL,
    answer_check: Callable[..., Any] | None = None,
    sandbox: Wanted = "auto",
    on_progress: Callable[[Progress], None] | None = None,
    otlp: str | None = None,
    otlp_content: bool = False,
) -> RunResult:
    """Do a recorded run again: its supervisor says what it said, its cells run anew.

    ``run`` is a log folder (its newest run) or ``FOLDER#RUN``. Without a ``worker`` every call gets
    what it got, nothing is sent to anybody, and the outcome is the recorded one
    (``RunResult.replay`` says whether it is). With one, worker calls are asked of it, so two
    workers can be compared under the same code: calls of other functions get what equal ones had
    got, and are made if there was none, where the function is given (``primitives``,
    ``repl_class``). Options are the run's own; for ``sandbox`` see ``resume``.

    Raises InputError for what is no run, and what ``run`` raises.
    """
    given = chosen_primitives(primitives)
    spans = collector(otlp, content=otlp_content)
    host = driver.shared()
    recorded = run if isinstance(run, Run) else await driver.in_thread(host, recorded_run, run)
    handler = RecordedSupervisor(recorded)
    backend = RecordedBackend(recorded) if worker is None else await ready_backend(host, worker)
    options = _replay_options(
        recorded,
        "log" if worker is None else "worker",
        given,
        repl_class=repl_class,
        sandbox=sandbox,
        answer_check=answer_check,
        on_progress=on_progress,
    )
    models = RunModels(handler, None, backend)
    options = models.settled(options)
    question = Question(_start(recorded).query, await driver.in_thread(host, recorded.context))
    run_id, folder = run_name(), log_dir if log_dir is not None else default_log_dir()
    async with journal_of(host, folder, run_id, spans=spans) as journal:
        asked = await models.rollout(host, RunLog(journal, run_id), question, options)
        ctx_k = _start(recorded).options.get("worker_ctx_k")
        return await asked.ask(label, ctx_k, handler.opening)


def _start(recorded: Run) -> RunStart:
    """How the run began: it has, or nobody could have named it."""
    assert recorded.start is not None
    return recorded.start


def _options_of(
    recorded: Run, *, sandbox: Wanted, answer_check: Callable[..., Any] | None, **given: Any
) -> Options:
    """The options of a recorded run; what no log holds is given. Raises InputError."""
    start = _start(recorded)
    told = start.options
    options = read_back(
        Options,
        told,
        packages=tuple(named.partition(" ")[0] for named in told.get("sandbox_packages", ())),
        sources=start.context.sources,
        sandbox=_tier_again(told, sandbox),
        answer_rules=rules_from(
            told.get("answer_schema"), told.get("quote_check", False), answer_check
        ),
        **given,
    )
    return dataclasses.replace(options, prices=options.prices.before(price_table()))


def _replay_options(
    recorded: Run, answers: Answers, given: Mapping[str, Any], **own: Any
) -> Options:
    """The options of the recorded run, as far as they are its replay's."""
    told, asks = _start(recorded).options, answers == "worker"
    # A replay has no supervisor for sub-runs: what they gave comes from the log alone.
    ready = {name: each for name, each in ready_of(told).items() if each != "supervisor"}
    absent = _absent(recorded, own["repl_class"])
    turns = sum(not turn.forced for turn in recorded.turns)
    was_forced = turns < len(recorded.turns)
    options = _options_of(
        recorded,
        primitives={**absent, **(ready if asks else {}), **given},
        replay_of=ReplayOf(str(recorded.folder.resolve()), recorded.id, answers),
        **own,
    )
    return dataclasses.replace(
        options,
        # A budget may have ended it before its last turn.
        max_iterations=turns if was_forced else options.max_iterations,
        budget=options.budget if asks else Budget(),
        # What runs share would answer for the worker that is to be compared.
        answer_cache="run" if asks and options.answer_cache != "off" else "off",
    )


def _absent(recorded: Run, repl_class: type[REPL]) -> dict[str, Callable[..., Any]]:
    """The functions that a recorded run's caller had given, which only the log can answer."""

    def absent(name: str) -> Callable[..., Any]:
        def function(*_args: Any, **_kwargs: Any) -> Any:
            raise LookupError(f"{name} is not there: the recorded run did not call it so")

        return function

    told = _start(recorded).options.get("primitives", {}) if repl_class is REPL else {}
    return {
        name: primitive(**terms)(absent(name))
        for name, terms in told.items()
        if name not in SEED_NAMES
    }


def _supervisor_of(recorded: Run) -> ModelHandler:
    """The supervisor that goes on with a run if nobody names another."""
    start = _start(recorded)
    replay_of = start.options.get("replay_of")
    if replay_of is None:
        return supervisor_again(start)
    return RecordedSupervisor(recorded_run(replay_of["folder"], replay_of["run"]))


def _tier_again(told: Mapping[str, Any], wanted: Wanted) -> Wanted:
    """How a recorded run's code is confined: whoever wrote the log can't have it run unconfined."""
    recorded = told.get("sandbox", "auto")
    return recorded if wanted == "auto" and recorded != "none" else wanted


resume = background.waiting(resume_on_loop)
resume.__name__ = resume.__qualname__ = "resume"
resume_on_loop.__qualname__ = "resume"
replay = background.waiting(replay_on_loop)
replay.__name__ = replay.__qualname__ = "replay"
replay_on_loop.__qualname__ = "replay"
