"""What a run writes of itself: how it begins or goes on, its processes, its primitives, its end."""

import logging
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from distill.models import ModelHandler, model_name
from distill.protocol import PROTOCOL_VERSION
from distill.question import Question
from distill.recorded_options import logged
from distill.repl import REPL
from distill.run_options import Options
from distill.spending import Spending
from distill.supervisor.backends import Backend
from distill.supervisor.dialects import dialect
from distill.supervisor.driver import Driver
from distill.supervisor.host_calls import HostCallRecord
from distill.supervisor.run_log import RunLog
from distill.supervisor.standing import Standing, loose_ends, standing_of
from distill.supervisor.tally import Tally
from distill.supervisor.turns import Turns, token_usage
from distill.totals import Totals
from distill.traces import Run, records
from distill.version import __version__

LOG = logging.getLogger("distill")


class RunRecords:
    """Writes them to ``log``, once there is a REPL to tell of."""

    def __init__(
        self,
        log: RunLog,
        options: Options,
        supervisor: ModelHandler,
        backend: Backend,
        repl: REPL,
    ) -> None:
        self._log, self._options = log, options
        self._supervisor, self._backend = supervisor, backend
        self._repl = repl

    def start(
        self,
        question: Question,
        context: records.ContextRef,
        *,
        label: str | None,
        parent: records.ParentCall | None,
        worker_ctx_k: int | None,
        packages: Sequence[str],
        prompt: str,
    ) -> None:
        """Write run_start: from here on there is a run, and it will have an end.

        ``packages`` are what is in the jail, with versions.
        """
        self._show_primitives()
        self._log.start(
            query=question.query,
            context=context,
            supervisor=model_name(self._supervisor),
            worker=self._backend.name,
            label=label,
            parent=parent,
            redacted=self._options.redaction.told,
            options={
                **self._told_options(),
                "worker_ctx_k": worker_ctx_k,
                "prompt": prompt,
                "sandbox_packages": list(packages),
            },
            versions={
                "distill": __version__,
                "protocol": str(PROTOCOL_VERSION),
                "schema": str(records.SCHEMA_VERSION),
                "python": platform.python_version(),
            },
        )

    def _told_options(self) -> dict[str, Any]:
        """The options, and what they came to in this REPL and with these models."""
        options, repl = self._options, self._repl
        return {
            **logged(options),
            "supervisor_url": self._supervisor.url,
            **options.answer_rules.logged(),
            "worker_window_tokens": repl.namespace["worker_window_tokens"],
            "primitives": {name: asdict(terms) for name, terms in repl.terms.items()},
            "ready_primitives": {
                name: ready for name, ready in options.primitives.items() if isinstance(ready, str)
            },
            "sandbox": repl.tier,
            "limits": msgspec.to_builtins(repl.limits),
        }

    def _show_primitives(self) -> None:
        """Tell the user, before the first call, by which functions data could leave."""
        terms = self._repl.terms
        if any(each.egress is not False for each in terms.values()):
            told = "; ".join(f"{name}: {each}" for name, each in terms.items())
            LOG.warning("distill: the model's code can call %s", told)

    def resumed(self, recorded: Run, calls_before: int | None) -> Standing:
        """Write what the end that never came would have written; where the run stood."""
        self._show_primitives()
        standing = standing_of(recorded, self._options.output_limit)
        read = dialect(self._options.dialect).read
        self._log.journal.supervisor(*loose_ends(recorded, standing, read))
        self._log.write(
            records.Event,
            event="run_resumed",
            detail={
                "turn": standing.turn,
                "cells": len(recorded.cells),
                "worker_calls": calls_before,
                "supervisor": model_name(self._supervisor),
                "worker": self._backend.name,
            },
        )
        return standing

    def processes(self, host: Driver) -> None:
        """Name those that take part, once the jail is up."""
        named: list[tuple[records.Producer, dict[str, Any]]] = [
            (host.producer, {}),
            (host.launcher, {}),
        ]
        if (sandbox := self._repl.sandbox) is not None and sandbox.plan is not None:
            detail = {"tier": sandbox.plan.tier, "notes": list(sandbox.plan.notes)}
            named.append((sandbox.producer, detail))
            if sandbox.plan.tier == "none":
                LOG.warning("distill: there is no jail; %s", "; ".join(sandbox.plan.notes))
        named += [(producer, {}) for producer in self._backend.producers()]
        self._log.processes(named)

    def final(self, cell: int, value: Any) -> None:
        """A FINAL passed."""
        self._log.write(records.Final, cell=cell, value=value)

    def primitive(self, call: HostCallRecord) -> None:
        """A host call that asked no worker has ended."""
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

    def end(
        self,
        turns: Turns,
        tally: Tally,
        spending: Spending,
        totals: Totals,
        *,
        status: Any,
        error: str | None,
        elapsed_s: float,
        read_chars: int,
    ) -> None:
        """Write run_end, the last record of a run."""
        self._log.write(
            records.RunEnd,
            status=status,
            answer=turns.answer,
            iterations=turns.iterations,
            supervisor_usage=token_usage(turns.usage),
            worker_usage=token_usage(tally.usage),
            worker_calls=tally.sent,
            elapsed_s=elapsed_s,
            error=error,
            worker_cached=tally.cached,
            answer_problem=turns.problem,
            ended_by=turns.ended_by,
            supervisor_dollars=spending.supervisor_dollars,
            worker_dollars=spending.worker_dollars,
            gpu_s=spending.gpu_s,
            tree=tree_use(totals, spending.dollars) if totals.sub_runs else None,
            worker_failures=tally.failed,
            read_chars=read_chars,
        )


def tree_use(totals: Totals, dollars: float | None) -> records.TreeUse:
    """What a run with sub-runs has used in all."""
    return records.TreeUse(
        totals.sub_runs,
        token_usage(totals.supervisor),
        token_usage(totals.worker),
        totals.sent,
        dollars,
        totals.failed,
    )
