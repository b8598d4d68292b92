"""Driver ↔ worker server: requests in batches one way, results as they finish the other.

A worker says Hello when it starts, heartbeats while it loads, and Ready once when it can
serve. From then on its ``slots`` and ``token_budget`` are credit: the driver never has
more in flight, so the queue stays with the driver and a dead worker returns only its
window. A request is known by ``id`` and ``attempt``; the driver commits the first result
of an id and drops the rest.
"""

import math
import struct
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from distill.protocol.message import (
    Count,
    Detail,
    Json,
    LogRecords,
    Message,
    Name,
    Record,
    Seconds,
    Short,
    Shutdown,
    Text,
    Transitions,
    Value,
    Welcome,
)

FRAME_LIMIT_BYTES = 64 << 20
BATCH_REQUESTS = 64
"""Requests in one frame at most: 64 or 1 MiB gains 2-8x over one a frame (design §3)."""
BATCH_BYTES = 1 << 20
ID_BYTES = 4
MOST_TOKENS = 1_000_000
MOST_SEED = (1 << 63) - 1
"""Bounds that keep every number within what MessagePack and the engine can hold."""

FailureKind = Literal["too_long", "bad_request", "engine", "cancelled"]


class ChatMessage(Value, frozen=True):
    """One message of a conversation."""

    role: Name
    content: Text


class Sampling(Value, frozen=True, omit_defaults=True):
    """How a completion is drawn; the defaults are greedy, so a run repeats itself.

    ``max_tokens`` None means: as many as the window leaves. ``schema`` (a JSON schema),
    ``choices`` and ``regex`` constrain the text; at most one of them may be set.
    """

    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, msgspec.Meta(ge=-1, le=MOST_TOKENS)] = -1
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1.0
    stop: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    seed: Annotated[int, msgspec.Meta(ge=0, le=MOST_SEED)] | None = None
    schema: dict[str, Json] | None = None
    choices: tuple[str, ...] = ()
    regex: str | None = None


class Request(Value, frozen=True, omit_defaults=True):
    """One prompt. Exactly one of ``messages``, ``prompt`` and ``prompt_token_ids`` is set.

    ``messages`` go through the model's chat template, ``prompt`` is sent as it stands.
    ``adapter`` and ``weights_version`` name what must answer: None and 0 are the model itself.
    """

    id: Name
    attempt: Annotated[int, msgspec.Meta(ge=1)]
    sampling: Sampling
    messages: tuple[ChatMessage, ...] | None = None
    prompt: Text | None = None
    prompt_token_ids: tuple[Count, ...] | None = None
    record: Record = "ids"
    adapter: Name | None = None
    weights_version: Count = 0


class Result(Value, frozen=True, tag_field="type", tag=True, omit_defaults=True):
    """One completion, with what makes it trainable.

    The text as the model saw it, after the template, is ``prompt``; None where it is
    ``sent_text`` between ``before`` and ``after``, so that a long text travels once
    (``seen_text``). ``token_ids`` are the sampled ids, never retokenised; ``logprobs`` has one
    value per sampled id. Ids are packed (``pack_ids``): the driver has 5,000 of them to write for
    a long prompt, and no use for them as numbers.
    """

    id: Name
    attempt: int
    text: Text
    finish_reason: Name
    prompt_tokens: Count
    completion_tokens: Count
    prompt: Text | None = None
    before: Text = ""
    after: Text = ""
    cached_tokens: Count = 0
    prompt_token_ids: bytes | None = None
    token_ids: bytes | None = None
    logprobs: tuple[float, ...] | None = None
    queue_s: Seconds = 0.0
    compute_s: Seconds = 0.0
    adapter: Name | None = None
    weights_version: Count = 0

    def __post_init__(self) -> None:
        """Raise ValueError (of a peer's: RemoteProtocolError) for what the log can't say.

        That is bytes that are no ids, and numbers that are not finite: JSON has none of these.
        """
        if len(self.prompt_token_ids or b"") % ID_BYTES or len(self.token_ids or b"") % ID_BYTES:
            raise ValueError(f"token ids take {ID_BYTES} bytes each")
        if not all(map(math.isfinite, (self.queue_s, self.compute_s, *(self.logprobs or ())))):
            raise ValueError("log-probabilities and seconds are finite")


def pack_ids(ids: Sequence[int]) -> bytes:
    """Token ids as a Result has them: ID_BYTES each, unsigned, little-endian.

    Raises ValueError for what is no id.
    """
    try:
        return struct.pack(f"<{len(ids)}I", *ids)
    except struct.error as error:
        raise ValueError(f"not token ids: {error}") from error


def unpack_ids(packed: bytes) -> tuple[int, ...]:
    """The ids that ``pack_ids`` packed."""
    return struct.unpack(f"<{len(packed) // ID_BYTES}I", packed)


def sent_text(request: Request) -> str:
    """The part of a request that is longest as a rule: its prompt, or what was said last."""
    if request.messages:
        return request.messages[-1].content
    return request.prompt or ""


def seen_text(request: Request, result: Result) -> str:
    """The text as the model saw it."""
    if result.prompt is not None:
        return result.prompt
    return f"{result.before}{sent_text(request)}{result.after}"


class Failure(Value, frozen=True, tag_field="type", tag=True, omit_defaults=True):
    """A request that this worker can't serve; says by how much where that is known."""

    id: Name
    attempt: int
    kind: FailureKind
    detail: Detail
    prompt_tokens: Count | None = None
    window_tokens: Count | None = None


class ModelCard(Value, frozen=True):
    """Exactly which model answers: stamped on every line of ``worker.jsonl``.

    Hashes are SHA-256 in hex. ``logprobs_mode`` is vLLM's: raw values are taken before
    the sampling filters. ``adapter`` and what follows are a worker's own never, an answer's
    where a LoRA adapter gave it.
    """

    model: str
    weights_hash: str
    tokenizer_hash: str
    template_hash: str
    dtype: str
    device: str
    engine: str
    engine_version: str
    window_tokens: Count
    logprobs_mode: str
    adapter: str | None = None
    weights_version: int = 0
    adapter_hash: str = ""


class WorkerHello(Message, frozen=True):
    """A worker server's first message; ``epoch`` is fresh for every incarnation.

    ``succeeds`` is the epoch of the incarnation that lost its connection and comes back as this
    one: nobody else knows it.
    """

    protocol: int
    worker: Name
    epoch: Name
    pid: int
    host: Short = ""
    succeeds: Name | None = None


class WorkerReady(Message, frozen=True):
    """The engine has generated a token: requests may come, up to this credit."""

    card: ModelCard
    slots: Annotated[int, msgspec.Meta(ge=1)]
    token_budget: Annotated[int, msgspec.Meta(ge=1)]
    load_s: Seconds


class WorkerFailed(Message, frozen=True):
    """The engine could not start or has died; the process exits after this."""

    kind: Literal["model", "device", "memory", "engine"]
    detail: Detail


class Requests(Message, frozen=True):
    """Up to BATCH_REQUESTS prompts."""

    requests: Annotated[tuple[Request, ...], msgspec.Meta(max_length=BATCH_REQUESTS)]


class Results(Message, frozen=True):
    """Completions and failures, as they finish, in no particular order."""

    results: tuple[Result | Failure, ...]


class Cancel(Message, frozen=True):
    """The answers to these requests are no longer wanted; unknown ids are ignored."""

    ids: tuple[Name, ...]


class LoadAdapter(Message, frozen=True):
    """Load a version of a LoRA adapter beside what is there; requests may name it afterwards.

    ``path`` is a folder as the worker sees it.
    """

    adapter: Name
    version: Annotated[int, msgspec.Meta(ge=1)]
    path: Text


class AdapterLoaded(Message, frozen=True):
    """What came of a LoadAdapter: the SHA-256 of the files, or why this worker can't serve it."""

    adapter: Name
    version: Annotated[int, msgspec.Meta(ge=1)]
    files_hash: str = ""
    refused: Detail | None = None


class DropAdapter(Message, frozen=True):
    """No further request will name this version; it goes when the last one has its answer."""

    adapter: Name
    version: Annotated[int, msgspec.Meta(ge=1)]


class Heartbeat(Message, frozen=True):
    """The process is alive, and this is what the engine has done so far."""

    state: Literal["loading", "ready", "draining"]
    in_flight: Count
    last_step_age_s: Seconds
    prompt_tokens: Count
    completion_tokens: Count
    cached_tokens: Count = 0
    waiting: Count = 0
    cache_usage: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    failures: Count = 0


class WorkerRefused(Message, frozen=True):
    """This worker can't serve here, and why; it ends, with this as its last word.

    ``again``: it was given up, but may say Hello anew where it can dial.
    """

    detail: Detail
    again: bool = False


class Drain(Message, frozen=True):
    """Finish what is in flight, take nothing new, then say Goodbye."""


class WorkerGoodbye(Message, frozen=True):
    """Nothing is in flight any more; the process exits."""


FromWorker = (
    WorkerHello
    | WorkerReady
    | WorkerFailed
    | Results
    | AdapterLoaded
    | Heartbeat
    | LogRecords
    | WorkerGoodbye
)
ToWorker = (
    Welcome | WorkerRefused | Requests | Cancel | LoadAdapter | DropAdapter | Drain | Shutdown
)

TRANSITIONS: Transitions = {
    "new": {WorkerHello: "greeted"},
    "greeted": {Welcome: "loading", WorkerRefused: "gone", Shutdown: "gone"},
    "loading": {
        Heartbeat: "loading",
        LogRecords: "loading",
        WorkerReady: "ready",
        WorkerGoodbye: "gone",
        WorkerFailed: "gone",
        Drain: "gone",
        WorkerRefused: "gone",
        Shutdown: "gone",
    },
    "ready": {
        Requests: "ready",
        Results: "ready",
        Cancel: "ready",
        LoadAdapter: "ready",
        AdapterLoaded: "ready",
        DropAdapter: "ready",
        Heartbeat: "ready",
        LogRecords: "ready",
        Drain: "draining",
        WorkerGoodbye: "gone",
        WorkerFailed: "gone",
        WorkerRefused: "gone",
        Shutdown: "gone",
    },
    "draining": {
        Results: "draining",
        Cancel: "draining",
        AdapterLoaded: "draining",
        Heartbeat: "draining",
        LogRecords: "draining",
        WorkerGoodbye: "gone",
        WorkerFailed: "gone",
        WorkerRefused: "gone",
        Shutdown: "gone",
    },
    "gone": {},
}
"""State → message → next state, whoever sends it."""
