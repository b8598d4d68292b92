"""Models, as supervisors and as workers: one interface for an API and for a local engine.

Handlers are synchronous; distill calls them in threads, a bounded number at once, so one
handler may be asked from several threads at once. The only module that imports ``openai``.
"""

import contextlib
import copy
import math
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.attempts import RETRIES, Attempts
from distill.bounded_http import LISTENER, STALLED, bound
from distill.caller import HEARER
from distill.chat_stream import ReplyStream
from distill.completion import BadReply, Completion, is_count, loaded, read_completion
from distill.endpoint import address_of, host_of, spellings, usable_key
from distill.errors import InputError, ModelError, WindowError, WorkerBatchError, WorkerError
from distill.rate_limit import shared
from distill.rates import MINUTE_S, Rates
from distill.retry_headers import Headers
from distill.token_estimate import estimated_tokens
from distill.window_errors import says_too_long

if TYPE_CHECKING:
    import openai

    from distill.protocol.worker_link import ModelCard
    from distill.worker_server.offline import OfflineEngine

Messages = Sequence[Mapping[str, str]]
"""A conversation: ``{"role": "system" | "user" | "assistant", "content": text}`` each."""

REQUEST_TIMEOUT_S = 600.0
CHECK_TIMEOUT_S = 10.0
CONCURRENT_REQUESTS = 16
"""Requests of one batch that an OpenAIHandler has open at once."""
STALL_S = 180.0
"""How long a reply that is streamed may be silent. Some send nothing while they think."""
NONSENSE_RETRIES = 2
"""Tries after the first where the reply is no chat completion: a proxy's trouble passes."""
NO_STREAM = frozenset((400, 404, 405, 406, 415, 422, 501))
"""Statuses with which an endpoint that can't stream refuses to."""
BROKEN = frozenset(("RemoteProtocolError", "ReadError", "WriteError"))
"""What httpx2 raises of a connection that was there."""
FILTER = re.compile("content_filter|content management policy|responsible.?ai", re.IGNORECASE)
NO_KEY = "none"
OPENAI_HOST = "api.openai.com"
REPLY_BOUNDS = ("max_tokens", "max_completion_tokens")
"""What endpoints call the most tokens of a reply, the newer name last."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more replies. ``cached_input_tokens`` are part of ``input_tokens``."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model made through its endpoint's own form. ``arguments`` should be JSON."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class LMResponse:
    """One reply: its text, what it cost, which model gave it, and how long it took (s).

    ``attempts`` is how often it was asked for; ``waited_s`` of ``elapsed`` it waited for the
    endpoint's limits and between attempts. ``card`` says which weights answered, token ids what
    was read and sampled, ``logprobs`` (nats) one value for each of ``token_ids``, where known.
    ``gpu_s`` are seconds of a worker server's device.
    ``tool_calls`` come after the text; a supervisor's are read for code. ``refusal`` is what was
    said in place of a reply, ``reasoning`` what was thought before it, where the endpoint tells.
    """

    text: str
    usage: Usage
    model: str
    elapsed: float
    finish_reason: str = "stop"
    attempts: int = 1
    waited_s: float = 0.0
    card: "ModelCard | None" = None
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    gpu_s: float = 0.0
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str = ""
    reasoning: str = ""


class ModelHandler(ABC):
    """A model that can be the supervisor or the worker. A subclass need not call ``__init__``.

    ``model`` names it in the logs; ``window_tokens`` is its context window where known;
    ``endpoint`` says where it is asked, for its price: ``host`` or ``host:port``, "" for what costs
    nothing by the token, None where nobody knows; ``url`` is its whole address, without a password,
    if that is not the model's own API.
    """

    model: str = ""
    endpoint: str | None = None
    window_tokens: int | None = None
    url: str | None = None

    @abstractmethod
    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        """Reply to one conversation; ``kw`` are sampling parameters. Raises ModelError.

        ``logprobs=True`` is among them only where the caller wants log-probabilities.
        """

    @abstractmethod
    def chat_batch(self, message_batches: Sequence[Messages], **kw: Any) -> list[LMResponse]:
        """Reply to several, in their order.

        Raises WorkerBatchError, with the replies that did come, when some failed.
        """

    def complete_batch(self, prompts: Sequence[str], **kw: Any) -> list[LMResponse]:
        """Continue several texts as they stand, where the model can; else as user messages."""
        return self.chat_batch([[{"role": "user", "content": text}] for text in prompts], **kw)

    def card(self) -> "ModelCard | None":
        """Which weights would answer now, where that is known."""
        return None

    def prepare(self) -> None:  # noqa: B027  (most handlers are ready when they are made)
        """Make ready: called before a run, in a thread, so that the first call does not wait.

        Afterwards ``window_tokens`` is known, where it can be. Raises ModelError.
        """

    def close(self) -> None:  # noqa: B027  (most handlers hold nothing)
        """Let go of what the handler holds; it may be called twice."""


def _all_or_error(
    replies: list[LMResponse | None], errors: dict[int, WorkerError]
) -> list[LMResponse]:
    """The replies; raises WorkerBatchError, with those there are, if some failed."""
    if errors:
        texts = [reply.text if reply else None for reply in replies]
        raise WorkerBatchError(texts, errors, len(replies), replies)
    return [reply for reply in replies if reply is not None]


def check_response(handler: ModelHandler, response: Any) -> LMResponse:
    """What a handler returned, if it is a whole LMResponse. Raises ModelError that names it."""
    name = type(handler).__name__
    if not isinstance(response, LMResponse):
        raise ModelError(f"{name} must return an LMResponse, not {type(response).__name__}")
    text: Any = response.text  # the handler is the user's code: the types are promises
    usage: Any = response.usage
    if not (isinstance(text, str) and isinstance(usage, Usage)):
        raise ModelError(f"{name} returned an LMResponse without a text of type str and a Usage")
    for field in Usage.__slots__:
        if not is_count(getattr(usage, field)):
            value = repr(getattr(usage, field))[:80]
            raise ModelError(f"{name} returned a Usage whose {field} is no count: {value}")
    for field in ("model", "finish_reason", "refusal", "reasoning"):
        kind = type(getattr(response, field))
        if not issubclass(kind, str):
            raise ModelError(f"{name} returned an LMResponse whose {field} is a {kind.__name__}")
    for field in ("elapsed", "waited_s", "gpu_s"):
        if not _is_duration(getattr(response, field)):
            value = repr(getattr(response, field))[:80]
            raise ModelError(f"{name} returned an LMResponse whose {field} is no duration: {value}")
    if not is_count(response.attempts):
        value = repr(response.attempts)[:80]
        raise ModelError(f"{name} returned an LMResponse whose attempts is no count: {value}")
    _check_what_is_known(name, response)
    return response


def _check_what_is_known(name: str, response: LMResponse) -> None:
    from distill.protocol.worker_link import ModelCard

    if not isinstance(response.card, ModelCard | None):
        raise ModelError(f"{name} returned an LMResponse whose card is no ModelCard")
    kinds = (
        ("prompt_token_ids", "ids", _is_id),
        ("token_ids", "ids", _is_id),
        ("logprobs", "logarithms", _is_logarithm),
        ("tool_calls", "ToolCalls", _is_tool_call),
    )
    for field, what, fits in kinds:
        values = getattr(response, field)
        is_sequence = values is None or isinstance(values, list | tuple)
        if not is_sequence or not all(map(fits, values or ())):
            raise ModelError(f"{name} returned an LMResponse whose {field} are no {what}")


def _is_tool_call(value: Any) -> bool:
    texts = (value.name, value.arguments) if isinstance(value, ToolCall) else (None,)
    return all(isinstance(text, str) for text in texts)


def _is_id(value: Any) -> bool:
    return is_count(value) and value < 1 << 32


def _is_logarithm(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _is_duration(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < math.inf


def model_name(handler: ModelHandler) -> str:
    """How a handler is named in the logs."""
    return handler.model or type(handler).__name__


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
        self._opened: openai.OpenAI | None = None
        self._lock = threading.Lock()

    def beside(self, model: str) -> "OpenAIHandler":
        """Another model behind the same endpoint, with the same key and the same settings."""
        other = copy.copy(self)
        other.model, other.window_tokens = model, None
        own = {"_limiter": shared((*self._account, model)), "_opened": None}
        vars(other).update(own, _lock=threading.Lock())
        return other

    def _client(self) -> "openai.OpenAI":
        """The client; importing it costs 0.8 s, so it waits for the first request."""
        with self._lock:
            if self._opened is None:
                import openai

                # The client that openai would make, proxies included, but bounded.
                client = openai.DefaultHttpxClient(auth=self._auth)
                client = bound(client, openai.OpenAIError, self._stall_s)
                self._opened = openai.OpenAI(**self._settings, http_client=client)
            return self._opened

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        """Ask when it is this call's turn, again if need be.

        Raises ModelError: what to do; WindowError: the messages do not fit the model.
        """
        started_s = time.monotonic()
        request: Any = {"model": self.model, "messages": list(messages)}
        request.update(_to_openai(self._bounded({**self._sampling, **kw})))
        attempts = Attempts(self._limiter, _estimate(request), self._retries)
        while True:
            try:
                attempts.begin()
                reply, headers = self._ask_once(request)
                attempts.replied(reply.input_tokens + reply.output_tokens, headers)
                return self._response(reply, time.monotonic() - started_s, attempts)
            except Exception as error:  # noqa: BLE001  (what a reply can set off has no end)
                if not (_goes_on(error, attempts) or self._stops_streaming(error)):
                    raise self._gave_up(error, attempts) from None
            finally:
                attempts.end()

    def _bounded(self, sampling: dict[str, Any]) -> dict[str, Any]:
        """The sampling parameters with one bound of the reply, the lowest, as the endpoint has it.

        OpenAI's newer models refuse max_tokens; other servers may not know the newer name.
        """
        names = [name for name in REPLY_BOUNDS if sampling.get(name) is not None]
        if not names:
            return sampling
        name = "max_completion_tokens" if self.endpoint == OPENAI_HOST else names[-1]
        rest = {k: v for k, v in sampling.items() if k not in REPLY_BOUNDS}
        return {**rest, name: min(sampling[each] for each in names)}

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
        import openai

        status = getattr(error, "status_code", None) or getattr(error, "status", None)
        kind = WindowError if says_too_long(status, str(error)) else ModelError
        if isinstance(error, openai.OpenAIError):
            said = f": {self._explain(error)}"
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
        # Each with a copy of the context, which says who waits (distill.caller).
        threads = [
            threading.Thread(target=copy_context().run, args=(ask,), daemon=True)
            for _ in range(count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return _all_or_error(replies, errors)

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
        import openai

        try:
            page: Any = self._client().with_options(timeout=CHECK_TIMEOUT_S).models.list()
            served = {model.id: getattr(model, "max_model_len", None) for model in page.data}
        except openai.NotFoundError:
            return  # an endpoint without the list of models is fine
        except Exception as error:  # noqa: BLE001  (as in chat)
            raise self._failure(error, "is no OpenAI-compatible endpoint") from None
        if served and self.model not in served:
            listed = ", ".join(str(name) for name in list(served)[:8])
            raise ModelError(
                self._without_secrets(
                    f"{self._where} does not serve {self.model!r}; it serves {listed}"
                )
            )
        # vLLM says how long its window is; others don't.
        window = served.get(self.model)
        if self.window_tokens is None and window and is_count(window):
            self.window_tokens = window

    def _explain(self, error: "openai.OpenAIError") -> str:
        """What went wrong at the endpoint, and what to do about it."""
        import openai

        address, key = self._names
        status = getattr(error, "status_code", None)
        if isinstance(error, openai.APITimeoutError):
            if STALLED in (why := str(error.__cause__)):
                return f"{why}; check the endpoint's load, or raise stall_s"
            return "no answer in time; raise the timeout, or check the endpoint's load"
        if isinstance(error, openai.APIConnectionError):
            own = self._settings["base_url"] is not None
            advice = f"check {address} and that it runs" if own else "check the network"
            broke = type(error.__cause__).__name__ in BROKEN
            what = "the connection broke" if broke else "can't be reached"
            return f"{what} ({error.__cause__ or error}); {advice}"
        message = getattr(error, "message", "") or str(error)
        if status == 401:
            return f"the key was refused; check {key}"
        if status == 404:
            return f"it knows no such model or path: {message}"
        if status == 429:
            return f"rate or quota limit: {message}"
        if FILTER.search(message):
            return f"its content filter refuses the conversation; use another supervisor: {message}"
        return f"error {status}: {message}" if status else str(error)

    def close(self) -> None:
        """Close the client's connections."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None


def _goes_on(error: Exception, attempts: Attempts) -> bool:
    """Whether a call whose try ended with this error is tried again."""
    import openai

    if isinstance(error, BadReply):
        again = attempts.failed(error.status, {}) and not says_too_long(error.status, str(error))
        return again and (error.status is not None or attempts.count <= NONSENSE_RETRIES)

    if isinstance(error, openai.APIStatusError):
        again = attempts.failed(error.status_code, error.response.headers)
        return again and not says_too_long(error.status_code, str(error))
    return isinstance(error, openai.APIConnectionError) and attempts.failed(None, {})


def _estimate(request: Mapping[str, Any]) -> int:
    """Tokens that a try may use, which are reserved for it."""
    chars = sum(len(str(message.get("content", ""))) for message in request["messages"])
    limit = request.get("max_completion_tokens") or request.get("max_tokens")
    return estimated_tokens(chars, limit if is_count(limit) else None)


def _to_openai(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Our sampling names as the API's: ``schema`` becomes a response format."""
    request = {key: value for key, value in sampling.items() if value is not None}
    schema = request.pop("schema", None)
    if schema is not None:
        request["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
    extra: dict[str, Any] = {
        key: request.pop(key)
        for key in ("top_k", "min_p", "repetition_penalty", "guided_choice", "guided_regex")
        if key in request
    }
    if choices := request.pop("choices", None):
        extra["structured_outputs"] = {"choice": list(choices)}
    if regex := request.pop("regex", None):
        extra["structured_outputs"] = {"regex": regex}
    if extra:
        request["extra_body"] = extra
    return request


class VLLMHandler(ModelHandler):
    """A model on vLLM inside this process, with no server; as supervisor or as worker.

    ``model_path`` is a folder to load instead of the id ``model``. Keywords that begin with
    ``engine_`` go to the engine without the prefix, the rest are sampling parameters. The
    engine starts with ``prepare`` or the first request, which raise ModelError if it can't.
    With ``engine_max_lora_rank`` it takes LoRA adapters (``load_adapter``).
    Raises InputError for an unknown sampling parameter.
    """

    endpoint = ""

    def __init__(self, model: str, model_path: str | Path | None = None, **kw: Any) -> None:
        self.model = model
        self._source = str(model_path or model)
        prefix = "engine_"
        self._engine_options = {
            key.removeprefix(prefix): value for key, value in kw.items() if key.startswith(prefix)
        }
        self._sampling = {key: value for key, value in kw.items() if not key.startswith(prefix)}
        _check_sampling(self._sampling)
        self._opened: OfflineEngine | None = None
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Start the engine: ``window_tokens`` is its to say, and a run plans with it."""
        self._engine()

    def _engine(self) -> "OfflineEngine":
        with self._lock:
            if self._opened is None:
                from distill.worker_server.errors import WorkerError as EngineError
                from distill.worker_server.offline import OfflineEngine

                try:
                    self._opened = OfflineEngine(self._source, **self._engine_options)
                except EngineError as error:
                    raise ModelError(str(error)) from error
                self.window_tokens = self._opened.window_tokens
            return self._opened

    def load_adapter(self, path: str | Path, name: str | None = None) -> int:
        """Answer with this LoRA adapter from the next call on; its version, from 1.

        ``name`` is the folder's unless given; a name that was loaded before gets a new version.
        Calls that are open end on what they began with. Raises ModelError: it can't be served.
        """
        from distill.worker_server.errors import AdapterRefused

        try:
            return self._engine().load_adapter(str(path), name or Path(path).name)
        except AdapterRefused as error:
            raise ModelError(str(error)) from error

    def card(self) -> "ModelCard | None":
        """The model that is loaded, and the adapter."""
        return self._engine().card_now

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        """Reply to one conversation."""
        try:
            return self.chat_batch([messages], **kw)[0]
        except WorkerBatchError as error:
            raise error.errors[0] from error

    def chat_batch(self, message_batches: Sequence[Messages], **kw: Any) -> list[LMResponse]:
        """Reply to several in one continuous batch."""
        started_s = time.monotonic()
        results = self._engine().chat(message_batches, {**self._sampling, **kw})
        return self._responses(results, time.monotonic() - started_s)

    def complete_batch(self, prompts: Sequence[str], **kw: Any) -> list[LMResponse]:
        """Continue several texts in one continuous batch, with no chat template around them."""
        started_s = time.monotonic()
        results = self._engine().continue_texts(prompts, {**self._sampling, **kw})
        return self._responses(results, time.monotonic() - started_s)

    def _responses(self, results: Sequence[Any], elapsed_s: float) -> list[LMResponse]:
        from distill.protocol.worker_link import unpack_ids

        replies: list[LMResponse | None] = [None] * len(results)
        errors: dict[int, WorkerError] = {}
        for index, result in enumerate(results):
            if isinstance(result, Exception):
                errors[index] = WorkerError(str(result), kind=getattr(result, "kind", "engine"))
                continue
            replies[index] = LMResponse(
                result.text,
                Usage(result.prompt_tokens, result.completion_tokens, result.cached_tokens),
                self.model,
                elapsed_s,
                result.finish_reason,
                card=self._engine().card_of(result),
                token_ids=None if result.token_ids is None else unpack_ids(result.token_ids),
                logprobs=result.logprobs,
            )
        return _all_or_error(replies, errors)

    def close(self) -> None:
        """End the engine and its processes."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None


def _check_sampling(sampling: Mapping[str, Any]) -> None:
    """Refuse a misspelt parameter before minutes go into starting an engine."""
    from distill.protocol.worker_link import Sampling

    known = (*Sampling.__struct_fields__, "logprobs")
    if unknown := sorted(set(sampling) - set(known)):
        raise InputError(
            f"unknown sampling parameter {', '.join(unknown)}; there are: {', '.join(known)} "
            "(an option of the engine begins with engine_)"
        )
