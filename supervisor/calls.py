"""Worker calls of one run: from the cell's ``worker(prompt, …)`` to a line in the log.

Whatever serves them (the fleet, or any ModelHandler), a call is in ``worker.jsonl`` before
its answer is released to the cell.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from distill.errors import WorkerBatchError, WorkerError
from distill.models import LMResponse, ModelHandler, Usage, model_name
from distill.protocol import worker_link as wire
from distill.protocol.message import Record
from distill.supervisor.driver import Driver, in_thread
from distill.supervisor.fleet import Deliver, Fleet, Outcome
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.run_log import RunLog
from distill.supervisor.sandboxes import CURRENT_CALL
from distill.traces import records

HANDLER_BATCH = 32
"""Conversations that a ModelHandler gets at once, so that progress shows."""
HANDLER_BATCHES_AT_ONCE = 2
OWN_OPTIONS = ("chat", "system")


class Backend(Protocol):
    """What answers worker calls."""

    name: str
    window_tokens: int | None

    def submit(self, requests: Sequence[wire.Request], deliver: Deliver) -> None:
        """Start them; ``deliver`` gets every outcome once, on the driver's loop."""

    def cancel(self, ids: set[str]) -> None:
        """Forget these."""

    def producers(self) -> Sequence[records.Producer]:
        """The processes that answer."""


class FleetBackend:
    """The worker servers."""

    def __init__(self, fleet: Fleet, card: wire.ModelCard) -> None:
        self.name = card.model
        self.window_tokens: int | None = card.window_tokens
        self._fleet = fleet
        self.submit = fleet.submit
        self.cancel = fleet.cancel

    def producers(self) -> Sequence[records.Producer]:
        """The worker servers that are ready."""
        return [worker.producer for worker in self._fleet.workers() if worker.is_ready]


class HandlerBackend:
    """Any ModelHandler as worker: batches in the driver's pool of threads."""

    def __init__(self, driver: Driver, handler: ModelHandler) -> None:
        self.name = model_name(handler)
        self.window_tokens = handler.window_tokens
        self._driver = driver
        self._handler = handler
        self._gate = asyncio.Semaphore(HANDLER_BATCHES_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._cancelled: set[str] = set()

    def submit(self, requests: Sequence[wire.Request], deliver: Deliver) -> None:
        """Start them, in batches."""
        for start in range(0, len(requests), HANDLER_BATCH):
            batch = list(requests[start : start + HANDLER_BATCH])
            task = self._driver.loop.create_task(self._run(batch, deliver))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def cancel(self, ids: set[str]) -> None:
        """Batches not yet begun don't begin; those under way are not waited for."""
        self._cancelled |= ids

    def producers(self) -> Sequence[records.Producer]:
        """None: the handler lives in this process, or behind an endpoint."""
        return []

    async def _run(self, batch: list[wire.Request], deliver: Deliver) -> None:
        async with self._gate:
            batch = [request for request in batch if request.id not in self._cancelled]
            if not batch:
                return
            started_s = time.monotonic()
            try:
                outcomes = await self._ask(batch)
            except Exception as error:  # noqa: BLE001  (the user's code: its failure is the calls')
                outcomes = [(_refusal(request, error), "model") for request in batch]
            elapsed_s = time.monotonic() - started_s
            deliver(
                [
                    Outcome(request, result, kind, None, None, elapsed_s)
                    for request, (result, kind) in zip(batch, outcomes, strict=True)
                ]
            )

    async def _ask(
        self, batch: list[wire.Request]
    ) -> list[tuple[wire.Result | wire.Failure, str | None]]:
        conversations = [_messages_of(request) for request in batch]
        options = _options_of(batch[0].sampling)
        errors: Mapping[int, Exception] = {}
        try:
            replies: Sequence[LMResponse | None] = await in_thread(
                self._driver, lambda: self._handler.chat_batch(conversations, **options)
            )
        except WorkerBatchError as error:
            replies, errors = error.replies or [None] * len(batch), error.errors
        _check_replies(self._handler, replies, len(batch), errors)
        return [
            (_result(request, reply), None)
            if reply is not None
            else (_refusal(request, errors[i]), "model")
            for i, (request, reply) in enumerate(zip(batch, replies, strict=True))
        ]


def _refusal(request: wire.Request, error: Exception) -> wire.Failure:
    return wire.Failure(request.id, request.attempt, "engine", printable(str(error) or repr(error)))


def printable(text: str) -> str:
    """The text with lone surrogates, which no log can hold, replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _check_replies(
    handler: ModelHandler, replies: Any, count: int, errors: Mapping[int, Exception]
) -> None:
    name = type(handler).__name__
    if not isinstance(replies, list | tuple) or len(replies) != count:
        size = len(replies) if isinstance(replies, list | tuple) else type(replies).__name__
        raise WorkerError(f"{name}.chat_batch must return a list of {count}, not {size}")
    for index, reply in enumerate(replies):
        if reply is None and index in errors:
            continue
        if not isinstance(reply, LMResponse):
            raise WorkerError(f"{name} must return LMResponse, not {type(reply).__name__}")
        text: Any = reply.text  # the handler is the user's code: the types are promises
        usage: Any = reply.usage
        if not (isinstance(text, str) and isinstance(usage, Usage)):
            raise WorkerError(f"{name}: LMResponse needs a text of type str and a Usage")


def _messages_of(request: wire.Request) -> list[dict[str, str]]:
    if request.messages is None:
        return [{"role": "user", "content": request.prompt or ""}]
    return [{"role": message.role, "content": message.content} for message in request.messages]


def _options_of(sampling: wire.Sampling) -> dict[str, Any]:
    """The sampling parameters that differ from the defaults, and the temperature."""
    default = wire.Sampling()
    names = sampling.__struct_fields__
    options = {
        n: getattr(sampling, n) for n in names if getattr(sampling, n) != getattr(default, n)
    }
    return {"temperature": sampling.temperature, **options}


def _result(request: wire.Request, reply: LMResponse) -> wire.Result:
    return wire.Result(
        request.id,
        request.attempt,
        printable(reply.text),
        reply.finish_reason,
        "\n".join(message["content"] for message in _messages_of(request)),
        reply.usage.input_tokens,
        reply.usage.output_tokens,
        reply.usage.cached_input_tokens,
        compute_s=reply.elapsed,
    )


@dataclass(slots=True)
class Tally:
    """Worker calls of a run so far."""

    asked: int = 0
    done: int = 0
    failed: int = 0
    usage: Usage = field(default_factory=Usage)


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
        self._index = index
        self._context_sha256 = context_sha256
        self._record = record
        self._defaults = dict(defaults or {})
        self._on_progress = on_progress
        self._open: dict[str, tuple[asyncio.Future[str], dict[str, Any]]] = {}
        self._ended = False
        self.tally = Tally()
        self.readings: list[Reading] = []
        self.spans: list[records.Span] = []

    # -- host functions, called in threads of the pool

    def worker(self, prompt: Any, **options: Any) -> Any:
        """Ask the worker model about one prompt: a text, or a list of messages.

        Options: max_tokens, temperature, top_p, top_k, min_p, presence_penalty,
        frequency_penalty, repetition_penalty, stop, seed, schema, choices, regex, system, chat.
        """
        try:
            return self._wait("worker", [prompt], options)[0]
        except WorkerBatchError as error:
            raise error.errors[0] from error

    def worker_batch(self, prompts: Any, **options: Any) -> list[Any]:
        """Ask about many prompts at once; answers come in their order. Options as ``worker``."""
        if isinstance(prompts, str) or not isinstance(prompts, list | tuple):
            raise WorkerError(
                f"worker_batch takes a list of prompts, not {type(prompts).__name__}",
                kind="bad_request",
            )
        return self._wait("worker_batch", prompts, options)

    def _wait(self, function: str, prompts: Sequence[Any], options: dict[str, Any]) -> list[Any]:
        cell, call = CURRENT_CALL.get((0, 0))
        work = self._batch(function, prompts, options, cell, call)
        return asyncio.run_coroutine_threadsafe(work, self._driver.loop).result()

    # -- on the loop

    async def _batch(
        self, function: str, prompts: Sequence[Any], options: dict[str, Any], cell: int, call: int
    ) -> list[Any]:
        if self._ended:
            raise WorkerError("the run has ended", kind="cancelled")
        started_s = time.monotonic()
        options = {**self._defaults, **options}
        requests = self._requests(prompts, options, f"{self._log.run}-{cell}.{call}")
        futures: list[asyncio.Future[str]] = []
        for item, request in enumerate(requests):
            future: asyncio.Future[str] = self._driver.loop.create_future()
            place = {"cell": cell, "call": call, "item": item, "function": function}
            self._open[request.id] = (future, place)
            futures.append(future)
        self.tally.asked += len(requests)
        self._on_progress()
        self._backend.submit(requests, self._deliver)
        answers = await asyncio.gather(*futures, return_exceptions=True)
        parsed = [_parse(answer, options) for answer in answers]
        errors = {i: a for i, a in enumerate(parsed) if isinstance(a, WorkerError)}
        if self._ended:
            raise WorkerError("the run ended", kind="cancelled")
        self._log.write(
            records.Batch,
            cell=cell,
            call=call,
            function=function,
            items=len(requests),
            failed=len(errors),
            elapsed_s=time.monotonic() - started_s,
        )
        if errors:
            good = [None if isinstance(answer, WorkerError) else answer for answer in parsed]
            raise WorkerBatchError(good, errors, len(parsed))
        return parsed

    def _requests(
        self, prompts: Sequence[Any], options: Mapping[str, Any], prefix: str
    ) -> list[wire.Request]:
        sampling = _sampling({k: v for k, v in options.items() if k not in OWN_OPTIONS})
        chat, system = options.get("chat", True), options.get("system")
        requests = []
        for item, prompt in enumerate(prompts):
            name = f"{prefix}.{item}"
            if isinstance(prompt, str) and not chat:
                requests.append(wire.Request(name, 1, sampling, prompt=prompt, record=self._record))
            else:
                messages = _conversation(prompt, system, item)
                requests.append(
                    wire.Request(name, 1, sampling, messages=messages, record=self._record)
                )
        return requests

    def _deliver(self, outcomes: list[Outcome]) -> None:
        """Log first, in one write; then count, and release the answers."""
        wanted = [o for o in outcomes if o.request.id in self._open]
        if not wanted:
            return
        calls = [self._call(o, self._open[o.request.id][1]) for o in wanted]
        try:
            self._log.calls(calls)
        except (OSError, ValueError) as error:
            for outcome in wanted:
                future, _ = self._open.pop(outcome.request.id)
                if not future.done():
                    future.set_exception(WorkerError(f"the log can't be written: {error}"))
            return
        for outcome, call in zip(wanted, calls, strict=True):
            future, _ = self._open.pop(outcome.request.id)
            self._count(call)
            if future.done():
                continue
            if isinstance(outcome.result, wire.Failure):
                kind = outcome.lost or outcome.result.kind
                future.set_exception(WorkerError(outcome.result.detail, kind=kind))
            else:
                future.set_result(outcome.result.text)
        self._on_progress()

    def _call(self, outcome: Outcome, place: Mapping[str, Any]) -> records.Call:
        request, result = outcome.request, outcome.result
        sampling = msgspec.to_builtins(request.sampling)
        fields: dict[str, Any] = {
            **self._log.stamp(outcome.producer),
            **place,
            "id": request.id,
            "turn": self._log.turn,
            "attempt": request.attempt,
            "sampling": {**sampling, "record": request.record},
            "model": _model(outcome.card, self._backend.name),
            "messages": None if request.messages is None else tuple(_messages_of(request)),
            "total_s": outcome.total_s,
        }
        if isinstance(result, wire.Failure):
            prompt = "\n".join(message["content"] for message in _messages_of(request))
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
        if call.response is None:
            self.tally.failed += 1
            return
        used = call.usage
        self.tally.usage += Usage(used.input_tokens, used.output_tokens, used.cached_input_tokens)
        self.spans.extend(call.spans)
        if call.spans:
            self.readings.append(Reading(call.response, passage_of(call.spans)))

    def cancel(self) -> None:
        """Forget every open call, and refuse more: the run has ended."""
        self._ended = True
        open_calls, self._open = self._open, {}
        self._backend.cancel(set(open_calls))
        for future, _ in open_calls.values():
            if not future.done():
                future.set_exception(WorkerError("the run ended", kind="cancelled"))


def _sampling(options: Mapping[str, Any]) -> wire.Sampling:
    """Sampling parameters from a cell's keywords; hostile, so checked field by field."""
    options = dict(options)
    if isinstance(options.get("stop"), str):
        options["stop"] = [options["stop"]]
    unknown = set(options) - set(wire.Sampling.__struct_fields__)
    if unknown:
        known = ", ".join((*wire.Sampling.__struct_fields__, *OWN_OPTIONS))
        raise WorkerError(
            f"no such option: {', '.join(sorted(unknown))}; there are {known}", kind="bad_request"
        )
    try:
        sampling = msgspec.convert(options, wire.Sampling)
    except msgspec.ValidationError as error:
        raise WorkerError(f"bad option: {error}", kind="bad_request") from None
    if sum(map(bool, (sampling.schema, sampling.choices, sampling.regex))) > 1:
        raise WorkerError("set only one of schema, choices and regex", kind="bad_request")
    return sampling


def _conversation(prompt: Any, system: Any, item: int) -> tuple[wire.ChatMessage, ...]:
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    try:
        messages = msgspec.convert(prompt, tuple[wire.ChatMessage, ...])
    except msgspec.ValidationError as error:
        raise WorkerError(
            f"prompt {item} must be a str, or a list of {{'role', 'content'}}: {error}",
            kind="bad_request",
        ) from None
    return (wire.ChatMessage("system", str(system)), *messages) if system else messages


def _parse(answer: Any, options: Mapping[str, Any]) -> Any:
    """The answer's text, parsed where a schema was asked for; a failure stays what it is."""
    if isinstance(answer, WorkerError) or not options.get("schema"):
        if isinstance(answer, BaseException) and not isinstance(answer, WorkerError):
            return WorkerError(f"{type(answer).__name__}: {answer}")
        return answer
    try:
        return json.loads(answer)
    except ValueError:
        return WorkerError(
            f"the answer is no complete JSON (raise max_tokens?): {answer[:200]!r}", kind="schema"
        )


def _model(card: wire.ModelCard | None, name: str) -> records.Model:
    if card is None:
        return records.Model(name)
    return records.Model(**msgspec.structs.asdict(card))
