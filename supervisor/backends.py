"""What answers worker calls: the fleet, or any ModelHandler."""

import asyncio
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable
from weakref import WeakValueDictionary

from distill.caller import LOST_TRY
from distill.errors import ModelError, WorkerBatchError, WorkerError
from distill.models import LMResponse, ModelHandler, check_response, model_name
from distill.protocol import worker_link as wire
from distill.supervisor.driver import Driver, in_thread
from distill.supervisor.fleet import Fleet
from distill.supervisor.requests import Outcome, Submission
from distill.supervisor.text import printable
from distill.traces import Run, records

HANDLER_BATCH = 32
"""Conversations that a ModelHandler gets at once, so that progress shows."""
HANDLER_BATCHES_AT_ONCE = 2
"""Of one run: a run whose calls take long must not hold up the others'."""
HANDLER_BATCHES_IN_ALL = 64


@runtime_checkable
class Backend(Protocol):
    """What answers worker calls."""

    name: str
    window_tokens: int | None
    endpoint: str | None
    """Where it is asked, for its price, as ``ModelHandler.endpoint``."""

    def models(self) -> Sequence[str]:
        """The models that a call may name, ``name`` first."""

    def card(self, model: str | None) -> wire.ModelCard | None:
        """What exactly would answer for ``model`` (None: ``name``) now; None if nobody knows."""

    def submit(self, submission: Submission) -> None:
        """Start the requests; their outcomes come on the driver's loop."""

    def cancel(self, run: str) -> None:
        """Forget the requests of a run."""

    def producers(self) -> Sequence[records.Producer]:
        """The processes that answer."""


class FleetBackend:
    """The worker servers; what answers by default is the model of ``card``, or an adapter of it."""

    def __init__(self, fleet: Fleet, card: wire.ModelCard, adapter: str | None = None) -> None:
        self.name = adapter or card.model
        self._model = card.model
        self.endpoint: str | None = ""
        self.window_tokens: int | None = card.window_tokens
        self._fleet = fleet
        self.cancel = fleet.cancel

    def models(self) -> Sequence[str]:
        """The default's, those of all workers that are up, and their adapters."""
        return list(dict.fromkeys((self.name, self._model, *self._fleet.models())))

    def card(self, model: str | None) -> wire.ModelCard | None:
        """That of a worker which serves it."""
        return self._fleet.card(model or self.name)

    def submit(self, submission: Submission) -> None:
        """Queue the requests."""
        self._fleet.submit(dataclasses.replace(submission, model=submission.model or self.name))

    def producers(self) -> Sequence[records.Producer]:
        """The worker servers that are ready."""
        return [worker.producer for worker in self._fleet.workers() if worker.is_ready]


class RecordedBackend:
    """The worker of a recorded run that is done again: it is named, and never asked."""

    def __init__(self, run: Run) -> None:
        assert run.start is not None
        self.name = run.start.worker
        self.endpoint: str | None = ""
        self.window_tokens: int | None = run.start.options.get("worker_window_tokens")

    def models(self) -> Sequence[str]:
        """The recorded one."""
        return (self.name,)

    def card(self, model: str | None) -> wire.ModelCard | None:  # noqa: ARG002
        """Nobody answers."""
        return None

    def submit(self, submission: Submission) -> None:  # noqa: ARG002
        """Refuse: every host call of a replay is answered before it comes to this."""
        raise WorkerError("a replay asks no worker", kind="bad_request")

    def cancel(self, run: str) -> None:
        """Nothing was ever begun."""

    def producers(self) -> Sequence[records.Producer]:
        """Nobody answers."""
        return ()


class HandlerBackend:
    """Any ModelHandler as worker: batches in the driver's pool of threads."""

    def __init__(self, driver: Driver, handler: ModelHandler) -> None:
        self.name = model_name(handler)
        self.window_tokens = handler.window_tokens
        self.endpoint = handler.endpoint
        self._driver = driver
        self._handler = handler
        self._gate = asyncio.Semaphore(HANDLER_BATCHES_IN_ALL)
        self._gates: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        """Of each run that has batches."""
        self._tasks: dict[asyncio.Task[None], str] = {}

    def models(self) -> Sequence[str]:
        """The handler's own."""
        return (self.name,)

    def card(self, model: str | None) -> wire.ModelCard | None:  # noqa: ARG002
        """The handler's, where it knows what it is."""
        return self._handler.card()

    def submit(self, submission: Submission) -> None:
        """Start them, in batches of one kind each: the handler is given one set of parameters."""
        requests = submission.requests
        kinds: dict[tuple[bool, int | None], list[wire.Request]] = {}
        for request in requests:
            key = (request.messages is None, request.sampling.seed)
            kinds.setdefault(key, []).append(request)
        for kind in kinds.values():
            for start in range(0, len(kind), HANDLER_BATCH):
                batch = kind[start : start + HANDLER_BATCH]
                task = self._driver.loop.create_task(self._run(batch, submission))
                self._tasks[task] = submission.run
                task.add_done_callback(self._tasks.pop)

    def cancel(self, run: str) -> None:
        """Batches not yet begun don't begin; those under way are not waited for."""
        for task, its_run in list(self._tasks.items()):
            if its_run == run:
                task.cancel()  # its thread may go on for a while; its place is free at once

    def producers(self) -> Sequence[records.Producer]:
        """None: the handler lives in this process, or behind an endpoint."""
        return []

    async def _run(self, batch: list[wire.Request], submission: Submission) -> None:
        LOST_TRY.set(submission.lost_try)  # of this task alone
        own = self._gates.setdefault(submission.run, asyncio.Semaphore(HANDLER_BATCHES_AT_ONCE))
        async with own, self._gate:
            started_s = time.monotonic()
            try:
                outcomes = await self._ask(batch, logprobs=submission.logprobs)
            except Exception as error:  # noqa: BLE001  (the user's code: its failure is the calls')
                outcomes = [_refused(request, error) for request in batch]
            elapsed_s = time.monotonic() - started_s
            submission.deliver([dataclasses.replace(each, total_s=elapsed_s) for each in outcomes])

    async def _ask(self, batch: list[wire.Request], *, logprobs: bool) -> list[Outcome]:
        options = _options_of(batch[0].sampling)
        if logprobs:
            options["logprobs"] = True
        ask: Callable[[], list[LMResponse]]
        if batch[0].messages is None:
            prompts = [request.prompt or "" for request in batch]
            ask = functools.partial(self._handler.complete_batch, prompts, **options)
        else:
            conversations = [messages_of(request) for request in batch]
            ask = functools.partial(self._handler.chat_batch, conversations, **options)
        errors: Mapping[int, Exception] = {}
        try:
            replies: Sequence[LMResponse | None] = await in_thread(self._driver, ask)
        except WorkerBatchError as error:
            replies, errors = error.replies or [None] * len(batch), error.errors
        _check_replies(self._handler, replies, len(batch), errors)
        return [
            _answered(request, reply) if reply is not None else _refused(request, errors[i])
            for i, (request, reply) in enumerate(zip(batch, replies, strict=True))
        ]


def _answered(request: wire.Request, reply: LMResponse) -> Outcome:
    return Outcome(
        request, _result(request, reply), None, reply.card, None, 0.0, reply.gpu_s, reply.usage
    )


def _refused(request: wire.Request, error: Exception) -> Outcome:
    attempts = error.attempts if isinstance(error, ModelError) else request.attempt
    failure = wire.Failure(request.id, attempts, "engine", printable(str(error) or repr(error)))
    return Outcome(request, failure, "model", None, None, 0.0)


def _check_replies(
    handler: ModelHandler, replies: Any, count: int, errors: Mapping[int, Exception]
) -> None:
    name = type(handler).__name__
    if not isinstance(replies, list | tuple) or len(replies) != count:
        size = len(replies) if isinstance(replies, list | tuple) else type(replies).__name__
        raise WorkerError(f"{name}.chat_batch must return a list of {count}, not {size}")
    for index, reply in enumerate(replies):
        if reply is not None or index not in errors:
            check_response(handler, reply)


def messages_of(request: wire.Request) -> list[dict[str, str]]:
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


def _packed(ids: Sequence[int] | None) -> bytes | None:
    return None if ids is None else wire.pack_ids(ids)


def _result(request: wire.Request, reply: LMResponse) -> wire.Result:
    return wire.Result(
        request.id,
        reply.attempts,
        printable(reply.text),
        reply.finish_reason,
        reply.usage.input_tokens,
        reply.usage.output_tokens,
        "\n".join(message["content"] for message in messages_of(request)),
        cached_tokens=reply.usage.cached_input_tokens,
        prompt_token_ids=_packed(reply.prompt_token_ids),
        token_ids=_packed(reply.token_ids),
        logprobs=None if reply.logprobs is None else tuple(reply.logprobs),
        queue_s=reply.waited_s,
        compute_s=max(0.0, reply.elapsed - reply.waited_s),
    )
