"""``run``: one question about one text, from the first message to the answer and its trace."""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from distill.errors import InputError
from distill.limits import check
from distill.models import ModelHandler
from distill.packages import described
from distill.prompts import build_system_prompt
from distill.protocol.jail_link import Limits
from distill.protocol.message import Record
from distill.protocol.sandbox_link import Wanted
from distill.repl import REPL
from distill.rollout import SEED_NAMES, Options, Progress, Question, Rollout, RunResult
from distill.supervisor import background, driver
from distill.supervisor.answer_cache import AnswerCaching
from distill.supervisor.backends import Backend, HandlerBackend
from distill.supervisor.journal import Journal
from distill.supervisor.run_log import RunLog
from distill.supervisor.text import printable
from distill.supervisors import RecordedSupervisor, supervisor_from
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
    output_limit: int = 2000,
    worker_ctx_k: int | None = None,
    label: str | None = None,
    primitives: Mapping[str, Callable[..., Any]] | None = None,
    repl_class: type[REPL] = REPL,
    messages: Sequence[dict[str, str]] | None = None,
    record: Record = "ids",
    worker_options: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    sandbox_packages: Sequence[str] = (),
    sandbox: Wanted = "auto",
    sources: Sequence[str] = (),
    answer_cache: AnswerCaching = "off",
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Answer ``query`` about ``context`` with the code that ``supervisor`` writes.

    ``supervisor`` is a handler, or a name as the command line takes it (``"recipe:find"``).
    ``worker_ctx_k`` (thousands of tokens) is asked of the worker unless given; ``messages``
    replace ``build_system_prompt``'s; ``primitives`` are further functions of the REPL (see
    ``distill.primitive``); ``worker_options`` are default sampling parameters of worker calls;
    ``record`` says how much of each completion is logged; ``limits`` are the sandbox's;
    ``sandbox_packages`` are names of installed packages that the code may import; ``sandbox`` is
    the tier of its jail ("auto": the best that works; a named one never becomes another; "none",
    for development, is no jail); ``sources`` are the context's files, for the log;
    ``answer_cache`` says whether greedy and seeded worker calls are answered with what equal ones
    got before: never, within the run, or over all runs of this user ("shared", for workers whose
    weights are known); ``on_progress`` is called from the background loop and must not block.

    Both models are made ready first (``ModelHandler.prepare``). Raises InputError, SandboxError,
    ModelError; whatever it raises, the trace is complete.
    """
    _check_question(query, context, label)
    _check_limits(max_iterations, output_limit)
    check_primitives(primitives)
    if limits is not None:
        check(limits)
    if sandbox not in get_args(Wanted):
        raise InputError(f"sandbox is one of {', '.join(get_args(Wanted))}, not {sandbox!r}")
    if answer_cache not in get_args(AnswerCaching):
        raise InputError(f"answer_cache is off, run or shared, not {answer_cache!r}")
    described(sandbox_packages)
    host = driver.shared()
    handler = await ready_supervisor(host, supervisor)
    if isinstance(handler, RecordedSupervisor):
        raise InputError("a recorded run has its own question: distill.replay(RUN) does it again")
    backend = await ready_backend(host, worker)
    _check_cache(answer_cache, backend)
    options = Options(
        max_iterations=max_iterations,
        output_limit=output_limit,
        primitives=dict(primitives or {}),
        repl_class=repl_class,
        record=record,
        worker_options=dict(worker_options or {}),
        limits=limits,
        packages=tuple(sandbox_packages),
        sandbox=sandbox,
        sources=tuple(sources),
        answer_cache=answer_cache,
        on_progress=on_progress,
    )
    run_id, folder = new_run_id(), log_dir if log_dir is not None else default_log_dir()
    async with journal_of(host, folder, run_id) as journal:
        asked = Rollout(host, RunLog(journal, run_id), Question(query, context), options)
        await asked.prepare(handler, backend)
        packages = described(asked.packages)
        if worker_ctx_k is None and backend.window_tokens is not None:
            worker_ctx_k = max(1, backend.window_tokens // 1000)
        opening = messages or build_system_prompt(
            context,
            query,
            worker_ctx_k=worker_ctx_k,
            output_limit=output_limit,
            primitives=asked.primitive_lines(),
            packages=packages,
            models=backend.models()[1:],
        )
        asked.log_start(label, worker_ctx_k, packages=packages, prompt_given=messages is not None)
        return await asked.work(opening)


@contextlib.asynccontextmanager
async def journal_of(
    host: driver.Driver, folder: str | Path, run_id: str
) -> AsyncIterator[Journal]:
    """The journal, for this run alone. Raises InputError: the run is under way already."""
    async with host.under_way(run_id):
        journal = host.open_journal(Path(folder))
        try:
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


def check_primitives(primitives: Any) -> None:
    """Raises InputError unless it is None, or functions by names that they can have in a cell."""
    if primitives is None:
        return
    if not isinstance(primitives, Mapping):
        raise InputError(f"primitives must map names to functions, not {type(primitives).__name__}")
    for name, function in primitives.items():
        if not (isinstance(name, str) and name.isidentifier() and callable(function)):
            raise InputError(f"primitives[{name!r}] must be a function under a name of Python's")
        if name in (*SEED_NAMES, "FINAL"):
            raise InputError(f"primitives[{name!r}] would replace a name that every run has")


def new_run_id() -> str:
    """A name for a run, which no other has."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def _check_question(query: Any, context: Any, label: str | None) -> None:
    if not isinstance(query, str) or not query.strip():
        raise InputError("the question is empty")
    if printable(query) != query:
        raise InputError("the question has a lone surrogate: it was not decoded as it was written")
    if label is not None and printable(label) != label:
        raise InputError("the label has a lone surrogate: it was not decoded as it was written")
    if not isinstance(context, str | list | dict):
        raise InputError(f"the context must be a str, list or dict, not {type(context).__name__}")
    if not context or (isinstance(context, str) and not context.strip()):
        raise InputError("the context is empty: there is nothing to ask about")


def _check_cache(wanted: AnswerCaching, backend: Backend) -> None:
    if wanted == "shared" and backend.card(None) is None:
        raise InputError(
            "an answer cache that runs share is for workers of this engine: of an endpoint's model "
            'nobody knows whether it is still the same; use answer_cache="run"'
        )


def _check_limits(max_iterations: int, output_limit: int) -> None:
    if max_iterations < 1:
        raise InputError("max_iterations must be at least 1")
    if output_limit < 100:
        raise InputError("output_limit must be at least 100 characters")
