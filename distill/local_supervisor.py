"""``--supervisor local:MODEL``: a model of the engine's own worker servers writes the code."""

import itertools
import secrets
import time
from asyncio import AbstractEventLoop
from concurrent.futures import Future
from typing import Any

from distill.caller import is_gone
from distill.errors import InputError, ModelError, WindowError
from distill.models import LMResponse, Messages, ModelHandler, Usage
from distill.protocol import worker_link as wire
from distill.protocol.message import Record
from distill.rates import Rates
from distill.supervisor.call_options import sampling_of
from distill.supervisor.fleet import Fleet
from distill.supervisor.requests import Outcome, Submission
from distill.supervisor.workers import SUPERVISOR_PREFIX

LOOK_S = 0.5
"""How often a call that waits looks whether anybody waits for it."""
REPLY_SHARE = 4
"""A reply takes at most this part of the window, as long as there is room: others follow it."""


class LocalSupervisor(ModelHandler):
    """A model of ``fleet`` as supervisor, under the name that its queue has.

    Its turns go before all batches. One that is in flight when its worker dies is asked again.
    """

    def __init__(
        self, fleet: Fleet, loop: AbstractEventLoop, queue: str, record: Record = "ids"
    ) -> None:
        self.model = SUPERVISOR_PREFIX + queue.removeprefix(SUPERVISOR_PREFIX)
        self.window_tokens = next(
            (w.card.window_tokens for w in fleet.workers() if w.card and w.serves(queue)), None
        )
        self.endpoint = ""
        self._fleet = fleet
        self._loop = loop
        self._queue = queue
        self._record: Record = record
        self._name = f"supervisor-{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        """The next reply. Raises ModelError: the conversation is too long, or nobody serves it."""
        started_s = time.monotonic()
        conversation = tuple(wire.ChatMessage(m["role"], m["content"]) for m in messages)
        share = self.window_tokens and self.window_tokens // REPLY_SHARE
        bounds = [bound for bound in (share, kw.get("max_tokens")) if bound]
        bound = min(bounds, default=None)
        outcome = self._ask(conversation, sampling_of({**kw, "max_tokens": bound}))
        if isinstance(outcome.result, wire.Failure) and outcome.result.kind == "too_long":
            outcome = self._ask(conversation, sampling_of({**kw, "max_tokens": None}))
        result = outcome.result
        if isinstance(result, wire.Failure):
            raise self._failure(result)
        elapsed_s = time.monotonic() - started_s
        return LMResponse(
            result.text,
            Usage(result.prompt_tokens, result.completion_tokens, result.cached_tokens),
            self.model,
            elapsed_s,
            result.finish_reason,
            attempts=result.attempt,
            waited_s=max(0.0, elapsed_s - result.compute_s),
            card=outcome.card,
            prompt_token_ids=_ids(result.prompt_token_ids),
            token_ids=_ids(result.token_ids),
            logprobs=result.logprobs,
            gpu_s=outcome.gpu_s,
        )

    def chat_batch(self, message_batches: Any, **kw: Any) -> list[LMResponse]:
        """Reply to several conversations, one after another."""
        return [self.chat(messages, **kw) for messages in message_batches]

    def _ask(self, messages: tuple[wire.ChatMessage, ...], sampling: wire.Sampling) -> Outcome:
        name = f"{self._name}-{next(self._numbers)}"
        request = wire.Request(name, 1, sampling, messages=messages, record=self._record)
        future: Future[Outcome] = Future()

        def deliver(outcomes: list[Outcome]) -> None:
            future.set_result(outcomes[0])

        # A lane of its own: several runs may have this supervisor, and one of them may end.
        asked = Submission([request], deliver, name, self._queue, interactive=True)
        self._loop.call_soon_threadsafe(self._fleet.submit, asked)
        while True:
            try:
                return future.result(LOOK_S)
            except TimeoutError:
                if is_gone():
                    self._loop.call_soon_threadsafe(self._fleet.cancel, name)
                    raise ModelError("the run has ended") from None

    def _failure(self, failed: wire.Failure) -> ModelError:
        if failed.kind == "too_long":
            return WindowError(
                f"the conversation has {failed.prompt_tokens or 'more'} tokens, {self.model} holds "
                f"{failed.window_tokens or self.window_tokens}: lower --output-limit or "
                "--max-iterations, or use a supervisor with a larger window"
            )
        return ModelError(f"{self.model}: {failed.detail}")


def _ids(packed: bytes | None) -> tuple[int, ...] | None:
    return None if packed is None else wire.unpack_ids(packed)


def queue_of(named: str, served: list[str]) -> str:
    """Which of the ``served`` queues a supervisor's model is asked at. Raises InputError: none.

    It is named in full, or by what comes after the last slash. A supervisor's own servers go
    before the workers' of the same model.
    """
    for queue in sorted(served, key=lambda each: not each.startswith(SUPERVISOR_PREFIX)):
        model = queue.removeprefix(SUPERVISOR_PREFIX)
        if named in (model, model.rpartition("/")[2]):
            return queue
    raise not_served(named, served)


def not_served(model: str, served: list[str]) -> InputError:
    """Nobody here is that supervisor; what to do."""
    there = [SUPERVISOR_PREFIX + each.removeprefix(SUPERVISOR_PREFIX) for each in served]
    return InputError(
        f"this engine does not serve {SUPERVISOR_PREFIX}{model}; there is "
        f"{', '.join(there) or 'no local model'}. Start one that does: bin/distill-up "
        f"--supervisor {SUPERVISOR_PREFIX}{model} --supervisor-gpus …"
    )


def check_local(base_url: str | None, rates: Rates) -> None:
    """Refuse what only an API's model has. Raises InputError."""
    if base_url is not None:
        raise InputError(f"--base-url is for a model of an API; {SUPERVISOR_PREFIX}… uses none")
    if rates.are_given:
        raise InputError(
            f"--supervisor-…-per-minute is for a model of an API; {SUPERVISOR_PREFIX}… uses none"
        )
