"""One run while it lasts: its REPL, its worker calls, its log, its end."""

import asyncio
import functools
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from distill.accounts import Account
from distill.errors import BudgetError, DistillError
from distill.last_answer import LastAnswer
from distill.models import ModelHandler, Usage
from distill.opening import Opening, builder, opening, source_of
from distill.packages import described
from distill.progress import Progress, shielded
from distill.question import Question
from distill.ready_primitives import made
from distill.repl import REPL
from distill.replaying import Replaying
from distill.run_options import Options
from distill.run_records import RunRecords
from distill.run_repl import make_repl, primitive_lines
from distill.run_result import RunResult
from distill.run_text import RunText
from distill.spending import Spending
from distill.sub_questions import SubRuns
from distill.supervisor.answer_cache import AnswerCache, open_cache
from distill.supervisor.backends import Backend
from distill.supervisor.calls import WorkerCalls
from distill.supervisor.dialects import dialect
from distill.supervisor.driver import Driver, in_thread
from distill.supervisor.evidence import Quotation, gather
from distill.supervisor.finals import FINAL
from distill.supervisor.host_calls import HostCallRecord
from distill.supervisor.journal import Journal
from distill.supervisor.redacted import RunRedactor
from distill.supervisor.run_log import RunLog
from distill.supervisor.standing import Standing
from distill.supervisor.turns import TurnLoop, Turns
from distill.supervisors import RecordedSupervisor, RepliesEndError
from distill.totals import Totals
from distill.traces import Run, records
from distill.traces.coverage import read_chars


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
        self._last = LastAnswer(host, options.answer_rules, question, options.sources)
        self._on_progress = shielded(options.on_progress, "on_progress")
        self.worker_ctx_k: int | None = None

    async def prepare(
        self, supervisor: ModelHandler, backend: Backend, recorded: Run | None = None
    ) -> None:
        """Store the context, index it, and make the REPL (its jail starts with the turns).

        ``recorded`` is the run, up to where it was cut off, if this goes on with one.
        """
        self._supervisor, self._backend = supervisor, backend
        context, options = self.question.context, self.options
        self._redactor = RunRedactor(options.redaction) if options.redaction else None
        self.journal.enter(self.run, self._redactor)
        self._text = await RunText.stored(
            self._host, self.journal, context, options.sources, self._redactor
        )
        self._cache = await in_thread(self._host, open_cache, options.answer_cache)
        self._spending = Spending(
            supervisor,
            backend,
            budget=options.budget,
            prices=options.prices,
            shown_chars=options.output_limit,
            parent=self.draws_on,
            recorded=recorded,
            below=None if self.sub_runs is None else self.sub_runs.supervisor,
        )
        self._calls = self._make_calls()
        self._repl = self._make_repl()
        self._records = RunRecords(self._log, options, supervisor, backend, self._repl)
        self._repl.on_final = self._records.final
        if recorded is not None:
            self._take_up(recorded)
        if isinstance(supervisor, RecordedSupervisor):
            assert options.replay_of is not None
            answers = options.replay_of.answers
            self._replaying = Replaying(supervisor.run, answers, self._repl, self._log, self._calls)

    def _make_calls(self) -> WorkerCalls:
        return WorkerCalls(
            self._host,
            self._backend,
            self._log,
            self._text.index,
            context_sha256=self.context_sha256,
            record=self.options.record,
            defaults=self.options.worker_options,
            cache=self._cache,
            budget=self._spending.calls,
            on_progress=self.tell,
            keeps_spares=self._redactor is None,
        )

    def _make_repl(self) -> REPL:
        repl = make_repl(
            self.options,
            self.question,
            self._calls,
            window_tokens=self._backend.window_tokens,
            context_file=self._text.file,
            functions=made(self.options.primitives, self),
        )
        repl.on_call = self._end_call
        repl.on_cell = self._end_cell
        return repl

    def _take_up(self, recorded: Run) -> None:
        """Have what the run had when it was cut off."""
        self._calls.take_up(recorded)
        if self.sub_runs is not None:
            self.sub_runs.take_up(recorded)
        self._calls_before = self.totals.sent
        self._repl.recorded = recorded
        for call in recorded.primitives:
            self._last.note(call)
        assert recorded.start is not None
        window = recorded.start.options.get("worker_window_tokens")
        if window is not None:  # what the cells saw: they are run again
            self._repl.namespace["worker_window_tokens"] = window

    def _end_call(self, call: HostCallRecord) -> None:
        self._last.note(call)
        # A name that the host does not have is the jail's own word.
        known = call.function in (FINAL, *self._repl.functions)
        self._host.activity.host_calls[call.function if known else "unknown"] += 1
        if self._has_ended:
            return
        if self._replaying is not None:
            self._replaying.on_call(call)
        if call.function not in ("worker", "worker_batch"):
            self._records.primitive(call)

    def _end_cell(self, cell: int, failed: bool) -> None:
        self._calls.spares.settle(cell, failed=failed)
        if self.sub_runs is not None:
            self.sub_runs.end_cell(cell)

    # -- what its sub-runs need of it

    @property
    def account(self) -> Account:
        """What it uses, its sub-runs included."""
        return self._spending.account

    def account_below(self) -> Account:
        """What a sub-run that begins now draws on: it leaves this run the time of a last turn."""
        work_s = self._spending.turns.work_left_s()
        if work_s is None:
            return self.account
        return self.account.child(deadline_s=time.monotonic() + work_s)

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
        if child.text.name == self.text.name:
            self._calls.readings += child.calls.readings
            self._calls.spans += child.calls.spans

    @property
    def calls(self) -> WorkerCalls:
        """Its own."""
        return self._calls

    @property
    def text(self) -> RunText:
        """Its text, and what is made of that."""
        return self._text

    @property
    def context_sha256(self) -> str:
        """Which text it is about."""
        return self._text.ref.sha256

    def _facts(self, packages: Sequence[str]) -> dict[str, Any]:
        """The keywords of ``build_system_prompt``."""
        return {
            "worker_ctx_k": self.worker_ctx_k,
            "output_limit": self.options.output_limit,
            "primitives": primitive_lines(self._repl, self._dialect),
            "packages": packages,
            "models": self._backend.models()[1:],
            "answer_rules": self.options.answer_rules.told(),
        }

    async def ask(
        self, label: str | None, worker_ctx_k: int | None, messages: Opening | None = None
    ) -> RunResult:
        """Work on the question from its first message on; ``messages`` replace those we build."""
        packages = described(self._repl.packages)
        if worker_ctx_k is None and self._backend.window_tokens is not None:
            worker_ctx_k = max(1, self._backend.window_tokens // 1000)
        self.worker_ctx_k = worker_ctx_k
        options, asked = self.options, self.question
        build = builder(
            options.dialect,
            show_context_chars=options.show_context_chars,
            max_iterations=options.max_iterations,
            recursive=self.sub_runs is not None,
        )
        facts = self._facts(packages)
        begin = functools.partial(opening, messages, asked.context, asked.query, build, **facts)
        try:
            first = await in_thread(self._host, begin)  # it may be a user's function
        except BaseException:
            await self._let_go()
            raise
        self._records.start(
            asked,
            self._text.ref,
            label=label,
            parent=self._parent,
            worker_ctx_k=worker_ctx_k,
            packages=packages,
            prompt=source_of(messages),
        )
        return await self._work(first)

    async def go_on(self, recorded: Run) -> RunResult:
        """Work on from where the run stood when it was cut off; ``prepare`` has been given it."""
        return await self._work((), self._records.resumed(recorded, self._calls_before))

    async def _work(
        self, messages: Sequence[dict[str, str]], standing: Standing | None = None
    ) -> RunResult:
        """Start the jail, run the turns, and write the end, however they end."""
        self._loop = TurnLoop(
            self._host,
            self._supervisor,
            self._replaying or self._repl,
            self._log,
            dialect=self._dialect,
            max_iterations=self.options.max_iterations,
            budget=self._spending.turns,
            on_progress=self.tell,
            on_text=shielded(self.options.on_text, "on_text"),
        )
        status: Any = "failed"
        error: str | None = None
        self._host.activity.begin()
        try:
            turns = await self._turns(self._loop, messages, standing)
            quotations = await self._last.settle(turns)
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
        try:
            if self.sub_runs is not None:
                await self.sub_runs.close()
            self._spending.close()
            self._log_end(status, error)
            self._has_ended = True
        finally:
            await self._let_go()

    async def _let_go(self) -> None:
        """Of what ``prepare`` has made or taken."""
        if self._cache is not None:
            self._cache.close()
        self._text.forget()
        if self._redactor is not None:
            self._redactor.forget()
        await in_thread(self._host, self._repl.close)

    def _log_end(self, status: Any, error: str | None) -> None:
        self._records.end(
            self._loop.turns if self._loop is not None else Turns(),
            self._calls.tally,
            self._spending,
            self.totals,
            status=status,
            error=error,
            elapsed_s=time.monotonic() - self._started_s,
            read_chars=read_chars(self._calls.spans),
        )

    async def _turns(
        self, loop: TurnLoop, messages: Sequence[dict[str, str]], standing: Standing | None
    ) -> Turns:
        """The turns, in a jail that is up."""
        if standing is None:
            messages = self._spending.turns.open(messages)
        await in_thread(self._host, self._repl.start)
        self._records.processes(self._host)
        with self._spending.clock(self._stop):
            if standing is None:
                await loop.prelude()
            try:
                return await loop.run(messages, standing)
            except RepliesEndError:
                # Nothing failed: what was recorded was done again, and came to no answer.
                assert self._replaying is not None
                self._replaying.is_whole = False
                loop.turns.iterations -= 1
                return loop.turns

    def _stop(self, why: BudgetError) -> None:
        """There is time for a last turn only."""
        self._calls.stop(why)
        if self.sub_runs is not None:
            self.sub_runs.stop(why)

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
            evidence=gather(turns.answer, self.question.context, calls.readings, calls.spans),
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

    def tell(self) -> None:
        """Tell how far it is, to whoever wants to know."""
        if self._on_progress is None:
            return
        turns = self._loop.turns if self._loop is not None else Turns()
        totals = self.totals
        self._on_progress(
            Progress(
                self._log.run,
                turns.iterations,
                self.options.max_iterations,
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
