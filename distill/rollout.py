"""One run while it lasts: its REPL, its worker calls, its log, its end."""

import asyncio
import functools
import logging
import platform
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from distill.accounts import Account
from distill.answers import AnswerRules
from distill.budget import Budget
from distill.errors import DistillError
from distill.models import ModelHandler, Usage, model_name
from distill.opening import BuildPrompt, Opening, opening
from distill.packages import described
from distill.prices import PriceTable
from distill.primitives import terms_of
from distill.prompts import build_system_prompt
from distill.protocol import PROTOCOL_VERSION
from distill.protocol.jail_link import Limits
from distill.protocol.message import Record
from distill.protocol.sandbox_link import Wanted
from distill.question import Question
from distill.ready_primitives import made
from distill.recorded_options import logged
from distill.repl import REPL, describe
from distill.replaying import Replayed, Replaying
from distill.rlm_prompt import build_rlm_prompt
from distill.spending import Spending
from distill.supervisor.answer_cache import AnswerCache, AnswerCaching, open_cache
from distill.supervisor.backends import Backend
from distill.supervisor.calls import WorkerCalls
from distill.supervisor.context import ContextFile
from distill.supervisor.dialects import DialectName, dialect
from distill.supervisor.driver import Driver, in_thread
from distill.supervisor.evidence import Evidence, Quotation, gather
from distill.supervisor.finals import CHECK_S, FINAL, TOO_LONG
from distill.supervisor.host_calls import HostCallRecord
from distill.supervisor.journal import Journal
from distill.supervisor.recording import ReplayOf
from distill.supervisor.run_log import RunLog
from distill.supervisor.shared_context import shared_context
from distill.supervisor.standing import Standing, loose_ends, standing_of
from distill.supervisor.turns import Status, TurnLoop, Turns, token_usage
from distill.supervisors import RecordedSupervisor, RepliesEndError
from distill.totals import Totals
from distill.traces import Run, records
from distill.version import __version__

LOG = logging.getLogger("distill")
UNKNOWN_WINDOW_TOKENS = 2048
"""What code is told of a worker whose window nobody knows: little enough for any model."""
SEED_NAMES = ("context", "query", "worker", "worker_batch")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: turns, worker calls, tokens of both models, seconds, dollars if known.

    Calls, tokens and dollars are also those of its sub-runs, of which ``sub_runs`` are under way.
    """

    run: str
    turn: int
    turns: int
    calls_done: int
    calls_total: int
    calls_failed: int
    tokens: int
    elapsed_s: float
    sub_runs: int = 0
    dollars: float | None = None
    note: str = ""
    """What the supervisor model is writing just now, in one line."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run's outcome. ``answer`` is None if there was none; ``status`` tells the two apart.

    What it used is the sum over the run and its ``sub_runs``; ``iterations`` are its own turns.
    ``worker_calls`` were asked of a worker, ``worker_cached`` the answer cache knew. ``elapsed`` is
    in seconds. The trace is in ``log_dir`` under ``run_id``. Of ``worker_calls``,
    ``worker_calls_before`` were in the log when the run was resumed; None: it was not. ``replay``
    tells of the recorded run that was done again, if one was.

    ``answer_problem`` says what is wrong with an answer that the checks refused and that nothing
    better came after. ``quotations`` are the answer's that stand in the context, with
    ``quote_check``.

    ``ended_by`` is the budget that ended it, a field of ``Budget``, or None. ``dollars`` are those
    of the whole run, None where nobody knows a price; ``gpu_s`` seconds of worker servers' devices
    (an endpoint's are not known, and 0); ``dollars_limit`` is what it might have cost.
    """

    answer: Any
    iterations: int
    supervisor_usage: Usage
    worker_usage: Usage
    elapsed: float
    status: Status
    run_id: str
    log_dir: Path
    worker_calls: int
    worker_failures: int
    evidence: Evidence
    worker_calls_before: int | None = None
    worker_cached: int = 0
    answer_problem: str | None = None
    quotations: tuple[Quotation, ...] = ()
    sub_runs: int = 0
    replay: Replayed | None = None
    ended_by: str | None = None
    dollars: float | None = None
    dollars_limit: float | None = None
    gpu_s: float = 0.0


class SubRuns(Protocol):
    """What a run needs of its sub-runs (``distill.subruns``, which stands above it)."""

    @property
    def totals(self) -> Totals:
        """What they have used so far."""

    @property
    def running(self) -> int:
        """How many are under way."""

    def ask(
        self, query: Any, context: Any = None, *, contexts: Any = None, max_iterations: Any = None
    ) -> Any:
        """The host's function that starts them."""

    def take_up(self, run: Run) -> None:
        """Go on with those of this run, which was cut off."""

    def end_cell(self, cell: int) -> None:
        """End those of a cell that has ended."""

    async def close(self) -> None:
        """End them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What decides how a run goes. It comes back from the log (``recorded_options``): an option
    that is no data is named there, one that older logs don't have has a default.
    """

    max_iterations: int
    output_limit: int
    primitives: Mapping[str, Callable[..., Any] | str]
    repl_class: type[REPL]
    record: Record
    worker_options: Mapping[str, Any]
    limits: Limits | None = None
    packages: tuple[str, ...]
    sandbox: Wanted = "auto"
    sources: tuple[str, ...]
    answer_cache: AnswerCaching = "off"
    max_depth: int = 1
    sub_supervisor: str | None = None
    dialect: DialectName = "native"
    budget: Budget = field(default_factory=Budget)
    prices: PriceTable = field(default_factory=PriceTable)
    show_context_chars: int = 0
    on_progress: Callable[[Progress], None] | None
    replay_of: ReplayOf | None = None
    on_text: Callable[[str], None] | None = None
    answer_rules: AnswerRules = field(default_factory=AnswerRules)


class Rollout:
    """One run while it lasts: its REPL, its worker calls, its log.

    ``sub_runs`` makes its sub-runs, None where it may have none; ``parent`` is the call that asked
    for it, if it is one itself.
    """

    def __init__(
        self,
        host: Driver,
        log: RunLog,
        question: Question,
        options: Options,
        sub_runs: "Callable[[Rollout], SubRuns] | None" = None,
        parent: records.ParentCall | None = None,
    ) -> None:
        self._host = host
        self._log = log
        self.question, self.options = question, options
        self._query, self._context = question.query, question.context
        self._options = options
        self._dialect = dialect(options.dialect)
        self.sub_runs = sub_runs(self) if sub_runs is not None else None
        self._parent = parent
        self._has_ended = False
        self._started_s = time.monotonic()
        self._loop: TurnLoop | None = None
        self._cache: AnswerCache | None = None
        self._calls_before: int | None = None
        self._replaying: Replaying | None = None
        self.draws_on: Account | None = None
        """The account of the run that this one is a part of; to be set before ``prepare``."""
        self._refused: HostCallRecord | records.Primitive | None = None
        """The last answer that FINAL did not take."""
        self.worker_ctx_k: int | None = None

    async def prepare(
        self, supervisor: ModelHandler, backend: Backend, recorded: Run | None = None
    ) -> None:
        """Store the context, index it, and make the REPL (its jail starts in ``work``).

        ``recorded`` is the run, up to where it was cut off, if this goes on with one.
        """
        self._supervisor, self._backend = supervisor, backend
        store = self._log.journal.store_context
        async with self._host.starts:
            self._ref, _ = await in_thread(self._host, store, self._context, self._options.sources)
            shared = await in_thread(self._host, shared_context, self._ref.sha256, self._context)
        self._index = shared.index()
        self._context_file: Callable[[Any], ContextFile] = functools.partial(
            shared.file, self._context
        )
        self._cache = await in_thread(self._host, open_cache, self._options.answer_cache)
        self._spending = Spending(
            supervisor,
            backend,
            budget=self._options.budget,
            prices=self._options.prices,
            shown_chars=self._options.output_limit,
            parent=self.draws_on,
            recorded=recorded,
        )
        self._calls = WorkerCalls(
            self._host,
            backend,
            self._log,
            self._index,
            context_sha256=self._ref.sha256,
            record=self._options.record,
            defaults=self._options.worker_options,
            cache=self._cache,
            budget=self._spending.calls,
            on_progress=self.tell,
        )
        self._repl = self._make_repl()
        if recorded is not None:
            self._calls.take_up(recorded)
            if self.sub_runs is not None:
                self.sub_runs.take_up(recorded)
            self._calls_before = self.totals.sent
            self._repl.recorded = recorded
            for call in recorded.primitives:
                self._note_refusal(call)
            assert recorded.start is not None
            window = recorded.start.options.get("worker_window_tokens")
            if window is not None:  # what the cells saw: they are run again
                self._repl.namespace["worker_window_tokens"] = window
        if isinstance(supervisor, RecordedSupervisor):
            assert self._options.replay_of is not None
            answers = self._options.replay_of.answers
            self._replaying = Replaying(supervisor.run, answers, self._repl, self._log, self._calls)

    def _make_repl(self) -> REPL:
        options = self._options
        repl = options.repl_class(
            self._context,
            self._query,
            self._calls.worker,
            self._calls.worker_batch,
            options.output_limit,
            made(options.primitives, self),
        )
        window = self._backend.window_tokens or UNKNOWN_WINDOW_TOKENS
        repl.namespace.setdefault("worker_window_tokens", window)
        repl.limits = options.limits or repl.limits
        repl.context_file = self._context_file
        if options.sandbox != "auto":
            repl.tier = options.sandbox
        repl.packages = tuple(dict.fromkeys((*repl.packages, *options.packages)))
        if rules := options.answer_rules:
            repl.check_answer = lambda answer: rules.problem(answer, self._context)
        repl.on_final = lambda cell, value: self._log.write(records.Final, cell=cell, value=value)
        repl.on_call = self._log_primitive
        repl.itemised = frozenset(("worker", "worker_batch"))
        repl.on_cell = self._end_cell
        return repl

    def _end_cell(self, cell: int, failed: bool) -> None:
        self._calls.spares.settle(cell, failed=failed)
        if self.sub_runs is not None:
            self.sub_runs.end_cell(cell)

    # -- what its sub-runs need of it

    @property
    def account(self) -> Account:
        """What it uses, its sub-runs included: theirs are children of it."""
        return self._spending.account

    @property
    def run(self) -> str:
        """Its id."""
        return self._log.run

    @property
    def journal(self) -> Journal:
        """Where it is logged."""
        return self._log.journal

    @property
    def totals(self) -> Totals:
        """What it has used so far, with its sub-runs."""
        tally = self._calls.tally
        used = self._loop.turns.usage if self._loop is not None else Usage()
        own = Totals(
            0, used, tally.usage, tally.asked, tally.done, tally.failed, tally.sent, tally.cached
        )
        return own if self.sub_runs is None else own + self.sub_runs.totals

    @property
    def sub_runs_running(self) -> int:
        """How many sub-runs are under way, at any depth."""
        return 0 if self.sub_runs is None else self.sub_runs.running

    def learn_from(self, child: "Rollout") -> None:
        """What the workers of a sub-run said of the same text is evidence here as well."""
        if child.context_sha256 == self.context_sha256:
            self._calls.readings += child.calls.readings
            self._calls.spans += child.calls.spans

    @property
    def calls(self) -> WorkerCalls:
        """Its own."""
        return self._calls

    @property
    def context_sha256(self) -> str:
        """Which text it is about."""
        sha256: str = self._ref.sha256
        return sha256

    def _facts(self, packages: Sequence[str]) -> dict[str, Any]:
        """The keywords of ``build_system_prompt``."""
        return {
            "worker_ctx_k": self.worker_ctx_k,
            "output_limit": self._options.output_limit,
            "primitives": self.primitive_lines(),
            "packages": packages,
            "models": self._backend.models()[1:],
            "answer_rules": self._options.answer_rules.told(),
        }

    def _builder(self) -> BuildPrompt:
        """What builds the first messages, in the run's dialect, where nobody gives them."""
        shown = self._options.show_context_chars
        if self._options.dialect == "native":
            return functools.partial(build_system_prompt, show_context_chars=shown)
        return functools.partial(
            build_rlm_prompt,
            show_context_chars=shown,
            max_iterations=self._options.max_iterations,
            recursive=self.sub_runs is not None,
        )

    async def ask(
        self, label: str | None, worker_ctx_k: int | None, messages: Opening | None = None
    ) -> RunResult:
        """Work on the question from its first message on; ``messages`` replace those we build."""
        packages = described(self._repl.packages)
        if worker_ctx_k is None and self._backend.window_tokens is not None:
            worker_ctx_k = max(1, self._backend.window_tokens // 1000)
        self.worker_ctx_k = worker_ctx_k
        begin = functools.partial(
            opening, messages, self._context, self._query, self._builder(), **self._facts(packages)
        )
        first = await in_thread(self._host, begin)  # it may be a user's function
        self.log_start(label, worker_ctx_k, packages=packages, prompt_given=messages is not None)
        return await self.work(first)

    def primitive_lines(self) -> dict[str, str]:
        """The functions that the prompt must name beside the given ones."""
        return {
            name: f"{describe(name, function)} (at most {terms_of(function).budget:,} calls)"
            for name, function in self._repl.functions.items()
            if name not in SEED_NAMES and name not in self._dialect.primitives
        }

    def log_start(
        self,
        label: str | None,
        worker_ctx_k: int | None,
        *,
        packages: Sequence[str],
        prompt_given: bool,
    ) -> None:
        """Write run_start: from here on there is a run, and it will have an end.

        ``packages`` are what is in the jail, with versions.
        """
        options = self._options
        self._show_primitives()
        self._log.start(
            query=self._query,
            context=self._ref,
            supervisor=model_name(self._supervisor),
            worker=self._backend.name,
            label=label,
            parent=self._parent,
            options={
                **logged(options),
                "worker_ctx_k": worker_ctx_k,
                "supervisor_url": self._supervisor.url,
                **options.answer_rules.logged(),
                "worker_window_tokens": self._repl.namespace["worker_window_tokens"],
                "prompt": "given" if prompt_given else "built",
                "primitives": {name: asdict(terms) for name, terms in self._repl.terms.items()},
                "ready_primitives": {
                    name: ready
                    for name, ready in options.primitives.items()
                    if isinstance(ready, str)
                },
                "sandbox": self._repl.tier,
                "sandbox_packages": list(packages),
                "limits": msgspec.to_builtins(self._repl.limits),
            },
            versions={
                "distill": __version__,
                "protocol": str(PROTOCOL_VERSION),
                "schema": str(records.SCHEMA_VERSION),
                "python": platform.python_version(),
            },
        )

    def _show_primitives(self) -> None:
        """Tell the user, before the first call, by which functions data could leave."""
        terms = self._repl.terms
        if any(each.egress is not False for each in terms.values()):
            told = "; ".join(f"{name}: {each}" for name, each in terms.items())
            LOG.warning("distill: the model's code can call %s", told)

    def log_resumed(self, recorded: Run) -> Standing:
        """Write what the end that never came would have written; where the run stood."""
        self._show_primitives()
        standing = standing_of(recorded, self._options.output_limit)
        self._log.journal.supervisor(*loose_ends(recorded, standing, self._dialect.read))
        self._log.write(
            records.Event,
            event="run_resumed",
            detail={
                "turn": standing.turn,
                "cells": len(recorded.cells),
                "worker_calls": self._calls_before,
                "supervisor": model_name(self._supervisor),
                "worker": self._backend.name,
            },
        )
        return standing

    async def work(
        self, messages: Sequence[dict[str, str]], standing: Standing | None = None
    ) -> RunResult:
        """Start the jail, run the turns, and write the end, however they end."""
        self._loop = TurnLoop(
            self._host,
            self._supervisor,
            self._replaying or self._repl,
            self._log,
            dialect=self._dialect,
            max_iterations=self._options.max_iterations,
            budget=self._spending.turns,
            on_progress=self.tell,
            on_text=self._options.on_text,
        )
        status: Any = "failed"
        error: str | None = None
        self._host.activity.begin()
        try:
            if standing is None:
                messages = self._spending.turns.open(messages)
            await in_thread(self._host, self._repl.start)
            self._log_processes()
            with self._spending.clock(self._calls.stop):
                if standing is None:
                    await self._loop.prelude()
                turns = await self._turns(self._loop, messages, standing)
            quotations = await self._check_last(turns)
            status = turns.status
            return self._result(turns, quotations)
        except DistillError as failure:
            error = str(failure)
            raise
        except BaseException as failure:
            cancelled = isinstance(failure, asyncio.CancelledError)
            status, error = "cancelled" if cancelled else "failed", repr(failure)
            raise
        finally:
            self._host.activity.end()
            await self._end(status, error)

    async def _end(self, status: Any, error: str | None) -> None:
        """End all that it began, and write so."""
        self._calls.cancel()
        if self._cache is not None:
            self._cache.close()
        try:
            if self.sub_runs is not None:
                await self.sub_runs.close()
            self._spending.close()
            self._log_end(status, error)
            self._has_ended = True
        finally:
            # At once: the rest of a run waits for the garbage collector, and these are large.
            self._index.forget()
            self._repl.context_file = self._context_file = ContextFile
            await in_thread(self._host, self._repl.close)

    async def _turns(
        self, loop: TurnLoop, messages: Sequence[dict[str, str]], standing: Standing | None
    ) -> Turns:
        try:
            return await loop.run(messages, standing)
        except RepliesEndError:
            # Nothing failed: what was recorded was done again, and came to no answer.
            assert self._replaying is not None
            self._replaying.is_whole = False
            loop.turns.iterations -= 1
            return loop.turns

    async def _check_last(self, turns: Turns) -> tuple[Quotation, ...]:
        """Check an answer that no FINAL has checked; the quotations of what is the answer now."""
        rules, refused = self._options.answer_rules, self._refused
        if turns.status == "forced" and rules:
            reading = in_thread(self._host, rules.read, turns.answer, self._context)
            try:
                turns.answer, turns.problem = await asyncio.wait_for(reading, CHECK_S)
            except TimeoutError:
                turns.problem = TOO_LONG
        elif turns.status == "unanswered" and refused is not None:
            turns.status, turns.answer = "forced", refused.args[0]
            turns.problem = (refused.error or "").removeprefix("FinalError: ")
        found: tuple[Quotation, ...] = await in_thread(
            self._host, rules.quotations, turns.answer, self._context, self._options.sources
        )
        return found

    def _result(self, turns: Turns, quotations: tuple[Quotation, ...]) -> RunResult:
        calls, totals = self._calls, self.totals
        return RunResult(
            answer=turns.answer,
            iterations=turns.iterations,
            supervisor_usage=totals.supervisor,
            worker_usage=totals.worker,
            elapsed=time.monotonic() - self._started_s,
            status=turns.status,
            run_id=self._log.run,
            log_dir=self._log.journal.folder,
            worker_calls=totals.sent,
            worker_failures=totals.failed,
            evidence=gather(turns.answer, self._context, calls.readings, calls.spans),
            worker_calls_before=self._calls_before,
            answer_problem=turns.problem,
            quotations=quotations,
            worker_cached=totals.cached,
            sub_runs=totals.sub_runs,
            replay=self._replaying.result() if self._replaying is not None else None,
            ended_by=turns.ended_by,
            dollars=self._spending.dollars,
            dollars_limit=self.account.limit("dollars"),
            gpu_s=self.account.used.gpu_s,
        )

    def _log_processes(self) -> None:
        named: list[tuple[records.Producer, dict[str, Any]]] = [
            (self._host.producer, {}),
            (self._host.launcher, {}),
        ]
        if (sandbox := self._repl.sandbox) is not None and sandbox.plan is not None:
            detail = {"tier": sandbox.plan.tier, "notes": list(sandbox.plan.notes)}
            named.append((sandbox.producer, detail))
            if sandbox.plan.tier == "none":
                LOG.warning("distill: there is no jail; %s", "; ".join(sandbox.plan.notes))
        named += [(producer, {}) for producer in self._backend.producers()]
        self._log.processes(named)

    def _log_primitive(self, call: HostCallRecord) -> None:
        # A name that the host does not have is the jail's own word.
        self._note_refusal(call)
        known = call.function in (FINAL, *self._repl.functions)
        self._host.activity.host_calls[call.function if known else "unknown"] += 1
        if self._has_ended:
            return
        if self._replaying is not None:
            self._replaying.on_call(call)
        if call.function in ("worker", "worker_batch"):
            return
        self._log.write(
            records.Primitive,
            cell=call.cell,
            call=call.call,
            function=call.function,
            args=list(call.args),
            kwargs=call.kwargs,
            elapsed_s=call.elapsed_s,
            value=call.value,
            error=call.error,
            key=call.key,
            reused=call.reused,
            replayed=call.replays is not None,
        )

    def _note_refusal(self, call: HostCallRecord | records.Primitive) -> None:
        if call.function == FINAL and call.args:
            self._refused = call

    def _log_end(self, status: Any, error: str | None) -> None:
        turns = self._loop.turns if self._loop is not None else Turns()
        self._log.write(
            records.RunEnd,
            status=status,
            answer=turns.answer,
            iterations=turns.iterations,
            supervisor_usage=token_usage(turns.usage),
            worker_usage=token_usage(self._calls.tally.usage),
            worker_calls=self._calls.tally.sent,
            elapsed_s=time.monotonic() - self._started_s,
            error=error,
            worker_cached=self._calls.tally.cached,
            answer_problem=turns.problem,
            ended_by=turns.ended_by,
            supervisor_dollars=self._spending.supervisor_dollars,
            worker_dollars=self._spending.worker_dollars,
            gpu_s=self._spending.gpu_s,
        )

    def tell(self) -> None:
        """Tell how far it is, to whoever wants to know."""
        if self._options.on_progress is None:
            return
        turns = self._loop.turns if self._loop is not None else Turns()
        totals = self.totals
        self._options.on_progress(
            Progress(
                self._log.run,
                turns.iterations,
                self._options.max_iterations,
                totals.done,
                totals.asked,
                totals.failed,
                totals.tokens,
                time.monotonic() - self._started_s,
                self.sub_runs_running,
                self._spending.dollars,
                turns.heard.note(),
            )
        )


def run_name() -> str:
    """A new run's id."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
