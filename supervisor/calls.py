"""Worker calls of one run: from the cell's ``worker(prompt, …)`` to a line in the log.

Whatever serves them (the fleet, or any ModelHandler), a call is in ``worker.jsonl`` before
its answer is released to the cell.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from distill.errors import WorkerBatchError, WorkerError
from distill.models import Usage
from distill.protocol import worker_link as wire
from distill.protocol.message import Record
from distill.supervisor.answer_cache import AnswerCache, Known, answer_key
from distill.supervisor.answer_form import AnswerForm
from distill.supervisor.backends import Backend, messages_of
from distill.supervisor.call_options import OWN_OPTIONS, conversation_of, parse_answer, sampling_of
from distill.supervisor.driver import Driver
from distill.supervisor.host_calls import CURRENT_CALL, HostCallRecord
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.recorded import fill_spares, last_batch
from distill.supervisor.requests import Outcome, Submission, request_key
from distill.supervisor.run_log import RunLog
from distill.supervisor.spares import Spares
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
    cached: int = 0
    usage: Usage = field(default_factory=Usage)

    @property
    def sent(self) -> int:
        """Calls that a worker was asked: not those that got an answer from before."""
        return self.done - self.reused - self.cached


@dataclass(frozen=True, slots=True)
class Open:
    """A call that waits for its answer: where it was made, its ``request_key``, the model named,
    and how the cell wants it.
    """

    future: asyncio.Future[Any]
    place: dict[str, Any]
    key: str
    model: str | None
    form: AnswerForm


@dataclass(frozen=True, slots=True)
class Reading:
    """What a worker said about the passage in its prompt."""

    response: str
    span: records.Span


def passage_of(spans: Sequence[records.Span]) -> records.Span:
    """The passage that a prompt's spans make up, where a few characters between them were
    rewritten (line breaks, labels); the longest span where they lie apart.
    """
    longest = max(spans, key=lambda span: span.end - span.start)
    near = [span for span in spans if span.part == longest.part]
    start, end = min(span.start for span in near), max(span.end for span in near)
    if end - start <= 2 * sum(span.end - span.start for span in near):
        return msgspec.structs.replace(longest, start=start, end=end)
    return longest


def without_ids(call: records.Call) -> records.Call:
    """A call as it is kept for reuse: its ids take five times the room of its texts."""
    return msgspec.structs.replace(call, prompt_token_ids=None, token_ids=None, logprobs=None)


class WorkerCalls:
    """The ``worker`` and ``worker_batch`` of one run. ``defaults`` are sampling parameters.

    ``cache`` has answers from before, if it is there.
    """

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
        cache: AnswerCache | None = None,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._cache = cache
        self._driver = driver
        self._backend = backend
        self._log = log
        self._index = index
        self._context_sha256 = context_sha256
        self._record = record
        self._defaults = dict(defaults or {})
        self._on_progress = on_progress
        self._open: dict[str, Open] = {}
        self._ended = False
        self._numbers = itertools.count(1)
        self.tally = Tally()
        self.spares: Spares[records.Call] = Spares()
        self.readings: list[Reading] = []
        self.spans: list[records.Span] = []

    # -- host functions, called in threads of the pool

    def worker(self, prompt: Any, **options: Any) -> Any:
        """Ask the worker model about one prompt: a text, or a list of messages.

        Options: max_tokens, temperature, top_p, top_k, min_p, presence_penalty,
        frequency_penalty, repetition_penalty, stop, seed, schema, choices, regex, system, chat,
        model (the name of another worker model that is up), n (answers to each prompt, as a list)
        and logprobs (True: each answer as a dict of text, token_ids and logprobs).
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
        form = AnswerForm()
        refusal: WorkerError | WorkerBatchError | None = None
        try:
            options = {**self._defaults, **options}
            form = AnswerForm.of(options)
            parsed = await self._ask(function, prompts, options, caller, form)
            errors = {i: a for i, a in enumerate(parsed) if isinstance(a, WorkerError)}
            if errors:
                good = [None if isinstance(answer, WorkerError) else answer for answer in parsed]
                refusal = WorkerBatchError(
                    form.gathered(good), form.by_prompt(errors), len(form.gathered(parsed))
                )
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
            n=form.n,
            elapsed_s=time.monotonic() - started_s,
            key=caller.key if caller.function == function else "",
            error=refusal and printable(str(refusal)),
        )
        if refusal is not None:
            raise refusal
        return form.gathered(parsed)

    async def _ask(
        self,
        function: str,
        prompts: Any,
        options: dict[str, Any],
        caller: HostCallRecord,
        form: AnswerForm,
    ) -> list[Any]:
        """Each answer, or a WorkerError in its place. Raises WorkerError: none can be asked."""
        if self._ended:
            raise WorkerError("the run has ended", kind="cancelled")
        model = self._model_of(options)
        # Numbered by us: one primitive may make several calls on behalf of one cell's call.
        prefix = f"{self._log.run}-{next(self._numbers)}"
        requests = self._requests(form.spread(prompts), options, prefix, form)
        futures: list[asyncio.Future[Any]] = []
        self.tally.asked += len(requests)
        asked = []
        for item, request in enumerate(requests):
            future: asyncio.Future[Any] = self._driver.loop.create_future()
            futures.append(future)
            place = {"cell": caller.cell, "call": caller.call, "item": item, "function": function}
            key = request_key(request, model)
            self._open[request.id] = Open(future, place, key, model, form)
            if form.logprobs:  # neither kind of answer from before has them
                asked.append(request)
            elif (spare := self.spares.take(key)) is not None:
                self._reuse(request, spare)
            elif (known := self._known(request, model)) is not None:
                self._answer_again(request, known)
            else:
                asked.append(request)
        self._on_progress()
        self._backend.submit(
            Submission(
                asked,
                self._deliver,
                self._log.run,
                model,
                interactive=function == "worker",
                logprobs=form.logprobs,
            )
        )
        answers = await asyncio.gather(*futures, return_exceptions=True)
        return [parse_answer(answer, options) for answer in answers]

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

    def _requests(
        self, prompts: Any, options: Mapping[str, Any], prefix: str, form: AnswerForm
    ) -> list[wire.Request]:
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
        asked = sampling_of({k: v for k, v in options.items() if k not in OWN_OPTIONS})
        record = form.record(self._record)
        chat, system = options.get("chat", True), options.get("system")
        requests = []
        for item, prompt in enumerate(prompts):
            name, sampling = f"{prefix}.{item}", form.sampling(asked, item)
            if isinstance(prompt, str) and not chat:
                requests.append(wire.Request(name, 1, sampling, prompt=prompt, record=record))
            else:
                messages = conversation_of(prompt, system, item)
                requests.append(wire.Request(name, 1, sampling, messages=messages, record=record))
        return requests

    def _known(self, request: wire.Request, model: str | None) -> Known | None:
        """The answer that what serves this now gave to the same before."""
        if self._cache is None:
            return None
        card = self._backend.card(model)
        return self._cache.find(answer_key(request, card, model or self._backend.name))

    def _answer_again(self, request: wire.Request, known: Known) -> None:
        """Answer with what was given before; a line in the log says so."""
        opened = self._open.pop(request.id)
        spans = self._index.spans(known.prompt)
        call = records.Call(
            **self._log.stamp(),
            **opened.place,
            id=request.id,
            turn=self._log.turn,
            attempt=request.attempt,
            prompt=known.prompt,
            response=known.response,
            finish_reason=known.finish_reason,
            usage=records.TokenUsage(0, 0),
            sampling=self._sampling(request, opened),
            model=known.model,
            source="cached",
            messages=None if request.messages is None else tuple(messages_of(request)),
            spans=spans,
            context_sha256=self._context_sha256 if spans else "",
        )
        try:
            self._log.calls([call])
        except OSError as error:
            opened.future.set_exception(WorkerError(f"the log can't be written: {error}"))
            return
        self._count(call)
        opened.future.set_result(known.response)

    @staticmethod
    def _sampling(request: wire.Request, opened: Open) -> dict[str, Any]:
        """The parameters of a request, as the log tells them."""
        sampling = {**msgspec.to_builtins(request.sampling), "record": request.record}
        if opened.model is not None:
            sampling["model"] = opened.model
        return {**sampling, **opened.form.logged}

    def _reuse(self, request: wire.Request, spare: records.Call) -> None:
        """Answer with what an equal call had got; a line in the log says so."""
        opened = self._open.pop(request.id)
        line = msgspec.structs.replace(
            spare,
            **self._log.stamp(spare.producer),
            **opened.place,
            id=request.id,
            turn=self._log.turn,
            source="reused",
            prompt_token_ids=None,
            token_ids=None,
            logprobs=None,
            queue_s=0.0,
            compute_s=0.0,
            total_s=0.0,
        )
        try:
            self._log.calls([line])
        except OSError as error:
            opened.future.set_exception(WorkerError(f"the log can't be written: {error}"))
            return
        self.spares.enter(opened.place["cell"], opened.key, spare)
        self.tally.reused += 1
        self.tally.done += 1
        opened.future.set_result(spare.response or "")

    def _deliver(self, outcomes: list[Outcome]) -> None:
        """Log first, in one write; then count, and release the answers."""
        wanted = [o for o in outcomes if o.request.id in self._open]
        if not wanted:
            return
        try:
            calls = [self._call(o, self._open[o.request.id]) for o in wanted]
            self._log.calls(calls)
        except Exception as error:  # noqa: BLE001  (whatever it is, nobody may wait for ever)
            for outcome in wanted:
                future = self._open.pop(outcome.request.id).future
                if not future.done():
                    future.set_exception(WorkerError(f"the log can't be written: {error}"))
            return
        self._keep(wanted, calls)
        for outcome, call in zip(wanted, calls, strict=True):
            opened = self._open.pop(outcome.request.id)
            future = opened.future
            self._count(call)
            if call.response is not None and not opened.form.logprobs:
                self.spares.enter(call.cell, opened.key, without_ids(call))
            if future.done():
                continue
            if isinstance(outcome.result, wire.Failure):
                kind = outcome.lost or outcome.result.kind
                future.set_exception(WorkerError(outcome.result.detail, kind=kind))
                continue
            try:
                future.set_result(opened.form.answer(outcome.result))
            except WorkerError as error:
                future.set_exception(error)
        self._on_progress()

    def _keep(self, outcomes: list[Outcome], calls: list[records.Call]) -> None:
        """Remember the answers for equal requests."""
        if self._cache is None:
            return
        keys = []
        for outcome in outcomes:
            name = self._open[outcome.request.id].model or self._backend.name
            keys.append(answer_key(outcome.request, outcome.card, name))
        self._cache.keep(zip(keys, calls, strict=True))

    def _call(self, outcome: Outcome, opened: Open) -> records.Call:
        request, result = outcome.request, outcome.result
        fields: dict[str, Any] = {
            **self._log.stamp(outcome.producer),
            **opened.place,
            "id": request.id,
            "turn": self._log.turn,
            "attempt": result.attempt,
            "sampling": self._sampling(request, opened),
            "model": _model(outcome.card, self._backend.name),
            "messages": None if request.messages is None else tuple(messages_of(request)),
            "total_s": outcome.total_s,
        }
        if isinstance(result, wire.Failure):
            prompt = "\n".join(message["content"] for message in messages_of(request))
            kind = outcome.lost or result.kind
            fields |= {
                "prompt": prompt,
                "response": None,
                "finish_reason": None,
                "usage": records.TokenUsage(result.prompt_tokens or 0, 0),
                "error": records.CallFailure(kind, result.detail),
            }
            return records.Call(**fields)
        spans = self._index.spans(result.prompt)
        return records.Call(
            **fields,
            prompt=result.prompt,
            response=result.text,
            finish_reason=result.finish_reason,
            usage=records.TokenUsage(
                result.prompt_tokens, result.completion_tokens, result.cached_tokens
            ),
            prompt_token_ids=result.prompt_token_ids,
            token_ids=result.token_ids,
            logprobs=result.logprobs,
            spans=spans,
            context_sha256=self._context_sha256 if spans else "",
            queue_s=result.queue_s,
            compute_s=result.compute_s,
        )

    def _count(self, call: records.Call) -> None:
        self.tally.done += 1
        self.tally.cached += call.source == "cached"
        if call.response is None:
            self.tally.failed += 1
            return
        used = call.usage
        self.tally.usage += Usage(used.input_tokens, used.output_tokens, used.cached_input_tokens)
        self.spans.extend(call.spans)
        if call.spans:
            self.readings.append(Reading(call.response, passage_of(call.spans)))

    def take_up(self, run: Run) -> None:
        """Go on with the calls of a run that was cut off."""
        self._numbers = itertools.count(last_batch(run) + 1)
        fill_spares(self.spares, run)
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
        open_calls, self._open = self._open, {}
        self._backend.cancel(set(open_calls))
        for opened in open_calls.values():
            if not opened.future.done():
                opened.future.set_exception(WorkerError("the run ended", kind="cancelled"))


def _model(card: wire.ModelCard | None, name: str) -> records.Model:
    if card is None:
        return records.Model(name)
    return records.Model(**msgspec.structs.asdict(card))
