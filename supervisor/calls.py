"""Worker calls of one run: from the cell's ``worker(prompt, …)`` to a line in the log.

Whatever serves them (the fleet, or any ModelHandler), a call is in ``worker.jsonl`` before
its answer is released to the cell.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from distill.errors import WorkerBatchError, WorkerError
from distill.models import Usage
from distill.protocol import worker_link as wire
from distill.protocol.message import Record
from distill.supervisor.asked import Asked, logged_sampling
from distill.supervisor.backends import Backend
from distill.supervisor.call_lines import CallLines
from distill.supervisor.call_options import OWN_OPTIONS, conversation_of, parse_answer, sampling_of
from distill.supervisor.driver import Driver, in_thread
from distill.supervisor.host_calls import CURRENT_CALL, HostCallRecord
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.recorded import fill_spares, last_batch
from distill.supervisor.requests import Outcome, Questions, Submission, request_key
from distill.supervisor.run_log import RunLog
from distill.supervisor.spare_calls import SpareCalls
from distill.supervisor.text import printable
from distill.traces import Run, records

BATCH_LIMIT = 20_000
"""Prompts of one worker_batch: beyond it the driver, not the workers, is what is loaded."""
NO_CALL = HostCallRecord(0, 0, "", (), {}, 0.0)


@dataclass(slots=True)
class Tally:
    """Worker calls of a run so far."""

    asked: int = 0
    done: int = 0
    failed: int = 0
    reused: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0

    @property
    def usage(self) -> Usage:
        """Tokens of the workers."""
        return Usage(self.input_tokens, self.output_tokens, self.cached_input_tokens)

    @property
    def sent(self) -> int:
        """Calls that a worker was asked: not those that got an answer from before."""
        return self.done - self.reused


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What a worker said about the passage in its prompt."""

    response: str
    span: records.Span


def passage_of(spans: Sequence[records.Span]) -> records.Span:
    """The passage that a prompt's spans make up, where a few characters between them were
    rewritten (line breaks, labels); the longest span where they lie apart.
    """
    if len(spans) == 1:
        return spans[0]
    longest = max(spans, key=lambda span: span.end - span.start)
    near = [span for span in spans if span.part == longest.part]
    start, end = min(span.start for span in near), max(span.end for span in near)
    if end - start <= 2 * sum(span.end - span.start for span in near):
        return msgspec.structs.replace(longest, start=start, end=end)
    return longest


class WorkerCalls:
    """The ``worker`` and ``worker_batch`` of one run. ``defaults`` are sampling parameters."""

    def __init__(
        self,
        driver: Driver,
        backend: Backend,
        log: RunLog,
        index: SpanIndex,
        *,
        context_sha256: str = "",
        record: Record = "ids",
        defaults: Mapping[str, Any] | None = None,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._driver = driver
        self._backend = backend
        self._log = log
        self._lines = CallLines(log, index, context_sha256, backend.name)
        self._record = record
        self._defaults = dict(defaults or {})
        self._on_progress = on_progress
        self._asked: dict[str, Asked] = {}
        """By the beginning that the names of their requests have in common."""
        self._ended = False
        self._numbers = itertools.count(1)
        self.tally = Tally()
        self.spares = SpareCalls(log.call_line)
        self.readings: list[Reading] = []
        self.spans: list[records.Span] = []

    # -- host functions, called in threads of the pool

    def worker(self, prompt: Any, **options: Any) -> Any:
        """Ask the worker model about one prompt: a text, or a list of messages.

        Options: max_tokens, temperature, top_p, top_k, min_p, presence_penalty,
        frequency_penalty, repetition_penalty, stop, seed, schema, choices, regex, system, chat,
        model (the name of another worker model that is up).
        """
        try:
            return self._wait("worker", [prompt], options)[0]
        except WorkerBatchError as error:
            raise error.errors[0] from error

    def worker_batch(self, prompts: Any, **options: Any) -> list[Any]:
        """Ask about many prompts at once; answers come in their order. Options as ``worker``."""
        return self._wait("worker_batch", prompts, options)

    def _wait(self, function: str, prompts: Sequence[Any], options: dict[str, Any]) -> list[Any]:
        work = self._batch(function, prompts, options, CURRENT_CALL.get(NO_CALL))
        return asyncio.run_coroutine_threadsafe(work, self._driver.loop).result()

    # -- on the loop

    async def _batch(
        self, function: str, prompts: Any, options: dict[str, Any], caller: HostCallRecord
    ) -> list[Any]:
        started_s = time.monotonic()
        parsed: list[Any] = []
        errors: dict[int, WorkerError] = {}
        refusal: WorkerError | WorkerBatchError | None = None
        try:
            parsed = await self._ask(function, prompts, {**self._defaults, **options}, caller)
            errors = {i: a for i, a in enumerate(parsed) if isinstance(a, WorkerError)}
            if errors:
                good = [None if isinstance(answer, WorkerError) else answer for answer in parsed]
                refusal = WorkerBatchError(good, errors, len(parsed))
        except WorkerError as error:
            refusal = error
        if self._ended:
            raise WorkerError("the run has ended", kind="cancelled")
        self._log.write(
            records.Batch,
            cell=caller.cell,
            call=caller.call,
            function=function,
            items=len(parsed),
            failed=len(errors),
            elapsed_s=time.monotonic() - started_s,
            key=caller.key if caller.function == function else "",
            error=refusal and printable(str(refusal)),
        )
        if refusal is not None:
            raise refusal
        return parsed

    async def _ask(
        self, function: str, prompts: Any, options: dict[str, Any], caller: HostCallRecord
    ) -> list[Any]:
        """An answer or a WorkerError for each prompt. Raises WorkerError: none can be asked."""
        if self._ended:
            raise WorkerError("the run has ended", kind="cancelled")
        model = self._model_of(options)
        # Numbered by us: one primitive may make several calls on behalf of one cell's call.
        name = f"{self._log.run}-{next(self._numbers)}"
        sampling = sampling_of({k: v for k, v in options.items() if k not in OWN_OPTIONS})
        questions = self._questions(name, prompts, sampling, options)
        asked = self._asked[name] = Asked(
            caller,
            function,
            len(questions),
            sampling=logged_sampling(sampling, self._record, model),
            model=model,
            loop=self._driver.loop,
        )
        self.tally.asked += len(questions)
        try:
            unanswered = await self._not_reused(questions, asked)
            if self._ended:
                raise WorkerError("the run has ended", kind="cancelled")
            self._on_progress()
            interactive = function == "worker"
            self._backend.submit(
                Submission(unanswered, self._deliver, self._log.run, model, interactive=interactive)
            )
            await asked.all_answered
        finally:
            self._asked.pop(name, None)
        return [parse_answer(answer, options) for answer in asked.answers]

    def _model_of(self, options: Mapping[str, Any]) -> str | None:
        """The model that a call names, by all of its name or by what comes after the last slash;
        None for the run's own. Raises WorkerError where no worker serves it.
        """
        name = options.get("model")
        if name is None:
            return None
        models = self._backend.models()
        named = [model for model in models if name in (model, model.rpartition("/")[2])]
        if len(named) != 1:
            what = "several models are named" if named else "no worker serves"
            there = ", ".join(models)
            raise WorkerError(f"{what} {name!r}; there are: {there}", kind="bad_request")
        return None if named[0] == self._backend.name else named[0]

    def _questions(
        self, name: str, prompts: Any, sampling: wire.Sampling, options: Mapping[str, Any]
    ) -> Questions:
        if not isinstance(prompts, list | tuple):
            raise WorkerError(
                f"worker_batch takes a list of prompts, not {type(prompts).__name__}",
                kind="bad_request",
            )
        if len(prompts) > BATCH_LIMIT:
            raise WorkerError(
                f"{len(prompts)} prompts in one call, the limit is {BATCH_LIMIT}",
                kind="bad_request",
            )
        system = str(options.get("system") or "")
        conversations = [
            prompt if isinstance(prompt, str) else conversation_of(prompt, system, item)
            for item, prompt in enumerate(prompts)
        ]
        chat = bool(options.get("chat", True))
        return Questions(name, conversations, sampling, self._record, system=system, chat=chat)

    async def _not_reused(self, questions: Questions, asked: Asked) -> Sequence[wire.Request]:
        """Give the items their answers that equal calls had got; the others' requests."""
        if not self.spares.is_read:
            await in_thread(self._driver, self.spares.read)
        if not self.spares:
            return questions
        return [
            request
            for item, request in enumerate(questions)
            if (spare := self.spares.take(request_key(request, asked.model))) is None
            or not self._reuse(asked, item, request, spare)
        ]

    def _reuse(self, asked: Asked, item: int, request: wire.Request, spare: records.Call) -> bool:
        """Answer with what an equal call had got; a line in the log says so."""
        try:
            (place,) = self._log.calls([self._lines.reused(asked, item, request, spare)])
        except OSError as error:
            asked.settle(item, WorkerError(f"the log can't be written: {error}"))
            return True
        self.spares.enter(asked.cell, place)
        self.tally.reused += 1
        self.tally.done += 1
        asked.settle(item, spare.response or "")
        return True

    def _deliver(self, outcomes: list[Outcome]) -> None:
        """Log first, in one write; then count, and release the answers."""
        wanted = []
        for outcome in outcomes:
            name, _, number = outcome.request.id.rpartition(".")
            asked, item = self._asked.get(name), int(number)
            if asked is not None and asked.waits_for(item):
                wanted.append((asked, item, outcome))
        if not wanted:
            return
        try:
            calls = [self._lines.line(*each) for each in wanted]
            places = self._log.calls(calls)
        except Exception as error:  # noqa: BLE001  (whatever it is, nobody may wait for ever)
            for asked, item, _ in wanted:
                asked.settle(item, WorkerError(f"the log can't be written: {error}"))
            return
        for (asked, item, outcome), call, place in zip(wanted, calls, places, strict=True):
            self._count(call)
            if call.response is not None:
                self.spares.enter(call.cell, place)
            asked.settle(item, _answer(outcome))
        self._on_progress()

    def _count(self, call: records.Call) -> None:
        tally = self.tally
        tally.done += 1
        if call.response is None:
            tally.failed += 1
            return
        tally.input_tokens += call.usage.input_tokens
        tally.output_tokens += call.usage.output_tokens
        tally.cached_input_tokens += call.usage.cached_input_tokens
        if call.spans:
            self.spans.extend(call.spans)
            self.readings.append(Reading(call.response, passage_of(call.spans)))

    def take_up(self, run: Run) -> None:
        """Go on with the calls of a run that was cut off."""
        self._numbers = itertools.count(last_batch(run) + 1)
        fill_spares(self.spares.recorded, run)
        for line in run.calls:
            self.tally.asked += 1
            if line.source == "reused":
                self.tally.done += 1
                self.tally.reused += 1
            else:
                self._count(line)

    def cancel(self) -> None:
        """Forget every open call, and refuse more: the run has ended."""
        self._ended = True
        self._backend.cancel(self._log.run)
        for asked in list(self._asked.values()):
            asked.settle_all(WorkerError("the run ended", kind="cancelled"))


def _answer(outcome: Outcome) -> str | WorkerError:
    """What a cell gets for it."""
    result = outcome.result
    if isinstance(result, wire.Failure):
        return WorkerError(result.detail, kind=outcome.lost or result.kind)
    return result.text
