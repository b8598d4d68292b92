"""Requests on their way: what waits for a worker, what came of it, and their sizes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

from distill.models import Usage
from distill.protocol import worker_link as wire
from distill.protocol.message import Record
from distill.supervisor.answer_form import ONE_TEXT, AnswerForm
from distill.supervisor.ledger import content_hash
from distill.token_estimate import estimated_tokens
from distill.traces import records

ALONE_FROM_DEATHS = 2
"""A request that was in flight at so many deaths is tried again with nothing beside it."""


@dataclass(slots=True)
class Outcome:
    """What came of a request: the answer, who gave it, and how long it took in all."""

    request: wire.Request
    result: wire.Result | wire.Failure
    lost: str | None
    card: wire.ModelCard | None
    producer: records.Producer | None
    total_s: float
    gpu_s: float = 0.0
    """Its share of the worker server's device, of all its tries (``device_clock``)."""
    usage: Usage | None = None
    """All that a handler said of its tokens; None: they are the result's."""


Deliver = Callable[[list[Outcome]], None]


class Questions(Sequence[wire.Request]):
    """The requests of one call, ``NAME.0`` and on: one for each answer of its form.

    Each is made when it is looked at, so one that waits takes little more than its text.
    A prompt is a text or a whole conversation; ``system`` goes before a text, and ``chat`` says
    whether that is a user's message or sent as it stands.
    """

    def __init__(
        self,
        name: str,
        prompts: Sequence[str | tuple[wire.ChatMessage, ...]],
        sampling: wire.Sampling,
        record: Record,
        form: AnswerForm = ONE_TEXT,
        *,
        system: str = "",
        chat: bool = True,
    ) -> None:
        self._name = name
        self._prompts = form.spread(prompts)
        self._form = form
        self._sampling = sampling
        self._record: Record = record
        self._before = (wire.ChatMessage("system", system),) if system else ()
        self._chat = chat

    def __len__(self) -> int:
        return len(self._prompts)

    @overload
    def __getitem__(self, item: int) -> wire.Request: ...
    @overload
    def __getitem__(self, item: slice) -> list[wire.Request]: ...
    def __getitem__(self, item: int | slice) -> wire.Request | list[wire.Request]:
        if isinstance(item, slice):
            return [self[each] for each in range(len(self))[item]]
        prompt = self._prompts[item]
        name, sampling = f"{self._name}.{item}", self._form.sampling(self._sampling, item)
        if not isinstance(prompt, str):
            messages = prompt
        elif self._chat:
            messages = (*self._before, wire.ChatMessage("user", prompt))
        else:
            return wire.Request(name, 1, sampling, prompt=prompt, record=self._record)
        return wire.Request(name, 1, sampling, messages=messages, record=self._record)


@dataclass(frozen=True, slots=True)
class Submission:
    """Requests that were asked at once. ``deliver`` gets every outcome once, as they come.

    ``model`` None is the one that serves by default. ``interactive``: somebody waits for just
    these, so they go before batches. Runs are served in turns, by their ``run``. ``logprobs``: the
    caller wants them, whatever is logged. ``lost_try`` is ``distill.caller.LOST_TRY`` of its calls.
    """

    requests: Sequence[wire.Request]
    deliver: Deliver
    run: str = ""
    model: str | None = None
    interactive: bool = False
    logprobs: bool = False
    lost_try: Callable[[int], bool] | None = None


@dataclass(slots=True)
class Pending:
    """A request that is next for a worker, or waits for its answer."""

    request: wire.Request
    submission: Submission
    tokens: int
    since: float
    deaths: int = 0
    """Of workers that had it in flight."""
    deaths_alone: int = 0
    """Of these, where nothing else was in flight."""
    mark_s: float = 0.0
    """Of the device's clock, when it came there."""
    gpu_s: float = 0.0
    """Its share of the devices where it was in flight."""


def request_key(request: wire.Request, model: str | None = None) -> str:
    """The hash of what is asked: equal requests may be given each other's answers."""
    return asked_key(request.messages, request.prompt, request.sampling, model)


def asked_key(
    messages: Any, prompt: str | None, sampling: wire.Sampling, model: str | None = None
) -> str:
    """The hash of a conversation (ChatMessages, or dicts of their fields) or a prompt.

    ``model`` is None for the run's own.
    """
    return content_hash([messages, prompt, sampling, *([] if model is None else [model])])


def text_of(request: wire.Request) -> str:
    """What the worker will read, without its template."""
    if request.messages is None:
        return request.prompt or ""
    if len(request.messages) == 1:
        return request.messages[0].content
    return "\n".join(message.content for message in request.messages)


def estimate_tokens(request: wire.Request) -> int:
    """Tokens that a request may take, for credit only: the worker counts exactly."""
    chars = len(request.prompt or "") + sum(len(m.content) for m in request.messages or ())
    ids = len(request.prompt_token_ids or ())
    return ids + estimated_tokens(chars, request.sampling.max_tokens)


def frames(requests: Iterable[wire.Request]) -> Iterable[list[wire.Request]]:
    """Groups of at most BATCH_REQUESTS requests and about BATCH_BYTES."""
    group: list[wire.Request] = []
    size = 0
    for request in requests:
        chars = len(request.prompt or "") + sum(len(m.content) for m in request.messages or ())
        if group and (len(group) == wire.BATCH_REQUESTS or size + chars > wire.BATCH_BYTES):
            yield group
            group, size = [], 0
        group.append(request)
        size += chars
    if group:
        yield group
