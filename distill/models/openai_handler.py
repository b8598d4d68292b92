"""A model behind an OpenAI-compatible HTTP endpoint."""

import contextlib
import copy
import os
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from distill.attempts import RETRIES, Attempts
from distill.bounded_http import LISTENER
from distill.caller import HEARER
from distill.chat_stream import ReplyStream
from distill.completion import BadReply, Completion, is_count, loaded, read_completion
from distill.endpoint import address_of, host_of, spellings, usable_key
from distill.errors import InputError, ModelError, WindowError, WorkerError
from distill.models.handler import Messages, ModelHandler, all_or_error
from distill.models.openai_client import (
    explain,
    goes_on,
    open_client,
    said_by,
    served_models,
)
from distill.models.reply_bounds import TIMES, ReplyBounds
from distill.models.request import OPENAI_HOST, estimate, request_of
from distill.models.response import LMResponse, ToolCall, Usage
from distill.rate_limit import shared
from distill.rates import MINUTE_S, Rates
from distill.retry_headers import Headers
from distill.window_errors import says_too_long

if TYPE_CHECKING:
    from distill.models.openai_client import Client

REQUEST_TIMEOUT_S = 600.0
CHECK_TIMEOUT_S = 10.0
CONCURRENT_REQUESTS = 16
"""Requests of one batch that an OpenAIHandler has open at once."""
STALL_S = 180.0
"""How long a reply that is streamed may be silent. Some send nothing while they think."""
NO_STREAM = frozenset((400, 404, 405, 406, 415, 422, 501))
"""Statuses with which an endpoint that can't stream refuses to."""
NO_KEY = "none"


class OpenAIHandler(ModelHandler):
    """A model behind an OpenAI-compatible HTTP endpoint.

    The key is ``api_key``, or OPENAI_API_KEY; a ``base_url`` that is not OpenAI's needs none.
    Each try ends after ``timeout_s`` in all, however slowly its bytes come. ``names`` are what
    errors call the address and the key. Further keywords are sampling parameters of every
    request. Raises InputError without a key, or with one that HTTP can't carry.

    All handlers of an endpoint, key and model share one limiter: what is given last of
    ``requests_per_minute`` and ``tokens_per_minute`` holds for all, in every ``rate_window_s``
    seconds. A call waits for its turn; a refusal makes all of them wait, as long as the endpoint
    asks. Passing trouble is tried again ``retries`` times.

    Where somebody hears the reply as it comes (a run, of its supervisor), it is streamed, and a
    try ends after ``stall_s`` without a byte; ``stream=False``, or an endpoint that can't: all at
    once. ``window_tokens`` is the model's context window, if nobody else says.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        retries: int = RETRIES,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        rate_window_s: float = MINUTE_S,
        names: tuple[str, str] = ("--base-url", "OPENAI_API_KEY"),
        stream: bool = True,
        stall_s: float = STALL_S,
        window_tokens: int | None = None,
        **sampling: Any,
    ) -> None:
        address = address_of(base_url or os.environ.get("OPENAI_BASE_URL") or None, names[0])
        # The environment's key only where none is given: a blank one must not become another's.
        key = usable_key(api_key or os.environ.get("OPENAI_API_KEY") or "", names[1])
        if not key and not address.url:
            raise InputError(
                f"no key for {model}: set OPENAI_API_KEY, or name your own endpoint (--base-url, "
                "base_url=), or use a supervisor that needs no key (recipe:find)"
            )
        self.model = model
        self.window_tokens = window_tokens
        self._sampling = sampling
        self._names = names
        self._streams = stream
        self._stall_s = stall_s
        self._where = address.where
        self.url = address.where if address.url else None
        self.endpoint = host_of(address.url) if address.url else OPENAI_HOST
        self._auth = address.auth
        self._secrets = spellings(key if key != NO_KEY else "", *address.secrets)
        self._settings: dict[str, Any] = {
            "base_url": address.url,
            "api_key": key or NO_KEY,
            "timeout": timeout_s,
            "max_retries": 0,  # the client's would each wait alone, and ask beside the limiter
        }
        self._retries = retries
        rates = Rates(requests_per_minute, tokens_per_minute, rate_window_s)
        url = (address.url or "").rstrip("/")
        self._account = (url, address.auth, key)
        self._limiter = shared((*self._account, model))
        self._limiter.limit(rates)
        self._bounds = ReplyBounds()
        self._opened: Client | None = None
        self._lock = threading.Lock()

    def beside(self, model: str) -> "OpenAIHandler":
        """Another model behind the same endpoint, with the same key and the same settings."""
        other = copy.copy(self)
        other.model, other.window_tokens = model, None
        own = {"_limiter": shared((*self._account, model)), "_opened": None}
        vars(other).update(own, _lock=threading.Lock(), _bounds=ReplyBounds())
        return other

    def _client(self) -> "Client":
        with self._lock:
            if self._opened is None:
                self._opened = open_client(self._settings, self._auth, self._stall_s)
            return self._opened

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        """Ask when it is this call's turn, again if need be.

        Raises ModelError: what to do; WindowError: the messages do not fit the model.
        """
        started_s = time.monotonic()
        request = request_of(self.model, messages, {**self._sampling, **kw}, self.endpoint)
        request = self._bounds.fitted(request)
        attempts = Attempts(self._limiter, estimate(request), self._retries)
        rebounds = 0
        while True:
            try:
                attempts.begin()
                reply, headers = self._ask_once(request)
                attempts.replied(reply.input_tokens + reply.output_tokens, headers)
                return self._response(reply, time.monotonic() - started_s, attempts)
            except Exception as error:  # noqa: BLE001  (what a reply can set off has no end)
                if goes_on(error, attempts) or self._stops_streaming(error):
                    continue
                other = self._bounds.refused(request, *said_by(error)) if rebounds < TIMES else None
                if other is None:
                    raise self._gave_up(error, attempts) from None
                request, rebounds = other, rebounds + 1
            finally:
                attempts.end()

    def _ask_once(self, request: Any) -> tuple[Completion, Headers]:
        """One try; told to who hears it, piece by piece if the endpoint streams.

        Raises BadReply, and whatever the client does.
        """
        create = self._client().chat.completions.with_raw_response.create
        hear = HEARER.get()
        if hear is None or not self._streams:
            raw = create(**request)
            stream = ReplyStream()
        else:
            hear("", False)
            stream = ReplyStream(hear)
            listening = LISTENER.set(stream.feed)
            try:
                raw = create(**request, stream=True, stream_options={"include_usage": True})
            finally:
                LISTENER.reset(listening)
        body = raw.http_response.content
        if not stream.begun and body.lstrip()[:5] == b"data:":
            stream.feed(body)
        if stream.begun:
            reply = read_completion(stream.body())
            # A stream that does not say what it used is the last: budgets and limits need it.
            self._streams = self._streams and reply.input_tokens > 0
        else:
            reply = read_completion(loaded(body))
            if hear is not None:
                hear(reply.text, False)
        return reply, raw.headers

    def _stops_streaming(self, error: Exception) -> bool:
        """Whether the endpoint has refused just the streaming; then it is asked for no more."""
        status = getattr(error, "status_code", None) or getattr(error, "status", None)
        if not self._streams or HEARER.get() is None or status not in NO_STREAM:
            return False
        self._streams = re.search(r"\bstream", str(error), re.IGNORECASE) is None
        return not self._streams

    def _gave_up(self, error: Exception, attempts: Attempts) -> ModelError:
        """The end of a call that has no more tries. Raise it ``from None``, as ``_failure``."""
        failure = error
        if not isinstance(failure, ModelError):
            failure = self._failure(error, "answered with no chat completion", attempts.told())
            attempts.give_up(str(failure))
        failure.attempts = attempts.count
        return failure

    def _failure(self, error: Exception, otherwise: str, tries: str = "") -> ModelError:
        """Any error of the client as ours.

        Raise it ``from None``: the errors below it quote the endpoint, which may quote the key.
        """
        status = getattr(error, "status_code", None) or getattr(error, "status", None)
        kind = WindowError if says_too_long(status, str(error)) else ModelError
        explained = explain(error, self._names, own=self._settings["base_url"] is not None)
        if explained is not None:
            said = f": {explained}"
        elif isinstance(error, BadReply):
            said = f": error {status}: {error}" if status else f" {otherwise} ({error})"
        else:
            said = f" {otherwise} ({type(error).__name__}: {error})"
        return kind(self._without_secrets(f"{self.model} at {self._where}{said}{tries}"))

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _response(self, reply: Completion, elapsed_s: float, attempts: Attempts) -> LMResponse:
        return LMResponse(
            reply.text,
            Usage(
                reply.input_tokens,
                reply.output_tokens,
                reply.cached_input_tokens,
                0,
                reply.reasoning_tokens,
            ),
            reply.model or self.model,
            elapsed_s,
            reply.finish_reason,
            attempts.count,
            attempts.waited_s,
            logprobs=reply.logprobs,
            tool_calls=tuple(ToolCall(*call) for call in reply.tool_calls),
            refusal=reply.refusal,
            reasoning=reply.reasoning,
        )

    def chat_batch(self, message_batches: Sequence[Messages], **kw: Any) -> list[LMResponse]:
        """Ask several at once, CONCURRENT_REQUESTS open at most."""
        replies: list[LMResponse | None] = [None] * len(message_batches)
        errors: dict[int, WorkerError] = {}

        waiting = deque(range(len(message_batches)))

        def ask() -> None:
            with contextlib.suppress(IndexError):
                while True:
                    index = waiting.popleft()
                    outcome = self._ask(message_batches[index], kw)
                    if isinstance(outcome, WorkerError):
                        errors[index] = outcome
                    else:
                        replies[index] = outcome

        # Not a ThreadPoolExecutor: the end of the process would wait for its open requests.
        count = min(CONCURRENT_REQUESTS, len(waiting))
        # Each with a copy of the context, which says who waits (distill.caller). One fewer than
        # there is to ask at once: to start a thread costs more than all else here.
        threads = [
            threading.Thread(target=copy_context().run, args=(ask,), daemon=True)
            for _ in range(count - 1)
        ]
        for thread in threads:
            thread.start()
        ask()
        for thread in threads:
            thread.join()
        return all_or_error(replies, errors)

    def _ask(self, messages: Messages, options: Mapping[str, Any]) -> LMResponse | WorkerError:
        """One item of a batch; an error that left it would end the thread, and lose the rest."""
        try:
            return self.chat(messages, **options)
        except ModelError as error:
            is_too_long = isinstance(error, WindowError)
            failed = WorkerError(str(error), kind="too_long" if is_too_long else "model")
            failed.attempts = error.attempts
            return failed
        except Exception as error:  # noqa: BLE001  (see above)
            return WorkerError(self._without_secrets(f"{type(error).__name__}: {error}"))

    def check(self) -> None:
        """Ask the endpoint which models it serves. Raises ModelError if it can't be reached."""
        try:
            served = served_models(self._client(), CHECK_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001  (as in chat)
            raise self._failure(error, "is no OpenAI-compatible endpoint") from None
        if served and self.model not in served:
            listed = ", ".join(str(name) for name in list(served)[:8])
            raise ModelError(
                self._without_secrets(
                    f"{self._where} does not serve {self.model!r}; it serves {listed}"
                )
            )
        window = served.get(self.model)
        if self.window_tokens is None and window and is_count(window):
            self.window_tokens = window

    def close(self) -> None:
        """Close the client's connections."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None
