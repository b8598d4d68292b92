"""One run while it lasts: its REPL, its worker calls, its log, its end."""

import asyncio
import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from distill.errors import DistillError
from distill.models import ModelHandler, Usage, model_name
from distill.primitives import terms_of
from distill.protocol import PROTOCOL_VERSION
from distill.protocol.jail_link import Limits
from distill.protocol.message import Record
from distill.protocol.sandbox_link import Wanted
from distill.recorded_options import logged
from distill.repl import REPL, describe
from distill.replaying import Replayed, Replaying
from distill.supervisor.answer_cache import AnswerCache, AnswerCaching, open_cache
from distill.supervisor.backends import Backend
from distill.supervisor.calls import WorkerCalls
from distill.supervisor.driver import Driver, in_thread
from distill.supervisor.evidence import Evidence, gather
from distill.supervisor.host_calls import HostCallRecord
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.recording import ReplayOf
from distill.supervisor.run_log import RunLog
from distill.supervisor.standing import Standing, loose_ends, standing_of
from distill.supervisor.turns import Status, TurnLoop, Turns, token_usage
from distill.supervisors import RecordedSupervisor, RepliesEndError
from distill.traces import Run, records
from distill.version import __version__

LOG = logging.getLogger("distill")
UNKNOWN_WINDOW_TOKENS = 2048
"""What code is told of a worker whose window nobody knows: little enough for any model."""
SEED_NAMES = ("context", "query", "worker", "worker_batch")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: turns, worker calls, tokens of both models, seconds."""

    run: str
    turn: int
    turns: int
    calls_done: int
    calls_total: int
    calls_failed: int
    tokens: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run's outcome. ``answer`` is None if there was none; ``status`` tells the two apart.

    ``worker_calls`` were asked of a worker, ``worker_cached`` the answer cache knew. ``elapsed`` is
    in seconds. The trace is in ``log_dir`` under ``run_id``. Of ``worker_calls``,
    ``worker_calls_before`` were in the log when the run was resumed; None: it was not. ``replay``
    tells of the recorded run that was done again, if one was.
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
    replay: Replayed | None = None


@dataclass(frozen=True, slots=True)
class Question:
    query: str
    context: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What decides how a run goes. It comes back from the log (``recorded_options``): an option
    that is no data is named there, one that older logs don't have has a default.
    """

    max_iterations: int
    output_limit: int
    primitives: Mapping[str, Callable[..., Any]]
    repl_class: type[REPL]
    record: Record
    worker_options: Mapping[str, Any]
    limits: Limits | None = None
    packages: tuple[str, ...]
    sandbox: Wanted = "auto"
    sources: tuple[str, ...]
    answer_cache: AnswerCaching = "off"
    on_progress: Callable[[Progress], None] | None
    replay_of: ReplayOf | None = None


class Rollout:
    """One run while it lasts: its REPL, its worker calls, its log."""

    def __init__(self, host: Driver, log: RunLog, question: Question, options: Options) -> None:
        self._host = host
        self._log = log
        self._query, self._context = question.query, question.context
        self._options = options
        self._started_s = time.monotonic()
        self._loop: TurnLoop | None = None
        self._cache: AnswerCache | None = None
        self._calls_before: int | None = None
        self._replaying: Replaying | None = None

    async def prepare(
        self, supervisor: ModelHandler, backend: Backend, recorded: Run | None = None
    ) -> None:
        """Store the context, index it, and make the REPL (its jail starts in ``work``).

        ``recorded`` is the run, up to where it was cut off, if this goes on with one.
        """
        self._supervisor, self._backend = supervisor, backend
        store = self._log.journal.store_context
        self._ref, _ = await in_thread(self._host, store, self._context, self._options.sources)
        index = await in_thread(self._host, SpanIndex, self._context)
        self._cache = await in_thread(self._host, open_cache, self._options.answer_cache)
        self._calls = WorkerCalls(
            self._host,
            backend,
            self._log,
            index,
            context_sha256=self._ref.sha256,
            record=self._options.record,
            defaults=self._options.worker_options,
            cache=self._cache,
            on_progress=self._tell,
        )
        self._repl = self._make_repl()
        if recorded is not None:
            self._calls.take_up(recorded)
            self._calls_before = self._calls.tally.sent
            self._repl.recorded = recorded
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
            options.primitives,
        )
        window = self._backend.window_tokens or UNKNOWN_WINDOW_TOKENS
        repl.namespace.setdefault("worker_window_tokens", window)
        repl.limits = options.limits or repl.limits
        if options.sandbox != "auto":
            repl.tier = options.sandbox
        repl.packages = tuple(dict.fromkeys((*repl.packages, *options.packages)))
        repl.on_final = lambda cell, value: self._log.write(records.Final, cell=cell, value=value)
        repl.on_call = self._log_primitive
        repl.itemised = frozenset(("worker", "worker_batch"))
        repl.on_cell = lambda cell, failed: self._calls.spares.settle(cell, failed=failed)
        return repl

    @property
    def packages(self) -> tuple[str, ...]:
        """Names of the packages inside: the run's, and those of its REPL's class."""
        return self._repl.packages

    def primitive_lines(self) -> dict[str, str]:
        """The functions that the prompt must name beside the given ones."""
        return {
            name: f"{describe(name, function)} (at most {terms_of(function).budget:,} calls)"
            for name, function in self._repl.functions.items()
            if name not in SEED_NAMES
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
            options={
                **logged(options),
                "worker_ctx_k": worker_ctx_k,
                "supervisor_url": self._supervisor.url,
                "worker_window_tokens": self._repl.namespace["worker_window_tokens"],
                "prompt": "given" if prompt_given else "built",
                "primitives": {name: asdict(terms) for name, terms in self._repl.terms.items()},
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
        self._log.journal.supervisor(*loose_ends(recorded, standing))
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
            max_iterations=self._options.max_iterations,
            on_progress=self._tell,
        )
        status: Any = "failed"
        error: str | None = None
        self._host.activity.begin()
        try:
            await in_thread(self._host, self._repl.start)
            self._log_processes()
            turns = await self._turns(self._loop, messages, standing)
            status = turns.status
            return self._result(turns)
        except DistillError as failure:
            error = str(failure)
            raise
        except BaseException as failure:
            cancelled = isinstance(failure, asyncio.CancelledError)
            status, error = "cancelled" if cancelled else "failed", repr(failure)
            raise
        finally:
            self._host.activity.end()
            self._calls.cancel()
            if self._cache is not None:
                self._cache.close()
            try:
                self._log_end(status, error)
            finally:
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

    def _result(self, turns: Turns) -> RunResult:
        calls = self._calls
        return RunResult(
            answer=turns.answer,
            iterations=turns.iterations,
            supervisor_usage=turns.usage,
            worker_usage=calls.tally.usage,
            elapsed=time.monotonic() - self._started_s,
            status=turns.status,
            run_id=self._log.run,
            log_dir=self._log.journal.folder,
            worker_calls=calls.tally.sent,
            worker_failures=calls.tally.failed,
            evidence=gather(turns.answer, self._context, calls.readings, calls.spans),
            worker_calls_before=self._calls_before,
            worker_cached=calls.tally.cached,
            replay=self._replaying.result() if self._replaying is not None else None,
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
        known = call.function in self._repl.functions
        self._host.activity.host_calls[call.function if known else "unknown"] += 1
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
        )

    def _tell(self) -> None:
        if self._options.on_progress is None:
            return
        turns = self._loop.turns if self._loop is not None else Turns()
        used = turns.usage + self._calls.tally.usage
        self._options.on_progress(
            Progress(
                self._log.run,
                turns.iterations,
                self._options.max_iterations,
                self._calls.tally.done,
                self._calls.tally.asked,
                self._calls.tally.failed,
                used.input_tokens + used.output_tokens,
                time.monotonic() - self._started_s,
            )
        )
