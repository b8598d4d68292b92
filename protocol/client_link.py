"""Client ↔ resident driver: questions from `distill run` and from ``Engine(endpoint)``.

Same machine, same uid: contexts travel as paths, keys never travel.
"""

from typing import Annotated, Literal

import msgspec

from distill.protocol.message import (
    Count,
    Detail,
    Json,
    Message,
    Name,
    Seconds,
    Text,
    Transitions,
    Value,
    Welcome,
)

FRAME_LIMIT_BYTES = 64 << 20

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
WorkerState = Literal[
    "starting", "loading", "ready", "draining", "frozen", "restarting", "failed", "left"
]


class ClientHello(Message, frozen=True):
    """A client's first message."""

    protocol: int
    client: Name
    pid: int


class Ask(Message, frozen=True):
    """One question. Paths are absolute; ``options`` are the run's, as `--help` names them."""

    ask: Name
    query: Text
    context_paths: tuple[str, ...]
    supervisor: str | None = None
    options: dict[str, Json] = {}


class Stop(Message, frozen=True):
    """The client no longer wants this answer; its run is cancelled."""

    ask: Name


class AddAdapter(Message, frozen=True):
    """Load a LoRA adapter, or a new version of it, from a folder as the workers see it.

    ``model`` None is the engine's own.
    """

    ask: Name
    adapter: Name
    path: Text
    model: str | None = None


class Progress(Message, frozen=True):
    """How far a run is."""

    ask: Name
    run: Name
    turn: Count
    turns: Count
    calls_done: Count
    calls_total: Count
    calls_failed: Count
    tokens: Count
    elapsed_s: Seconds
    note: str = ""
    sub_runs: Count = 0
    dollars: Annotated[float, msgspec.Meta(ge=0)] | None = None


class Answer(Message, frozen=True):
    """A run ended; ``result`` is its RunResult as a JSON object, ``summary`` for people."""

    ask: Name
    result: dict[str, Json]
    summary: Text


class WorkerStatus(Value, frozen=True):
    """One worker server as the driver sees it.

    Counters are of all its lives; ``…_per_s`` are of the last ten seconds, ``cached_share`` of
    the prompts' tokens then (of all, if there were none). ``waiting`` of ``in_flight`` the engine
    has not begun. ``fault`` says why it was last started again, or is not there.
    """

    worker: Name
    role: Literal["worker", "supervisor"]
    model: str
    device: str
    state: WorkerState
    in_flight: Count
    slots: Count
    waiting: Count
    prompt_tokens: Count
    cached_tokens: Count
    completion_tokens: Count
    prompt_tokens_per_s: Seconds
    completion_tokens_per_s: Seconds
    cached_share: Share
    cache_usage: Share
    failures: Count
    restarts: Count
    last_step_age_s: Seconds
    silent_s: Seconds
    fault: str = ""


class Inspect(Message, frozen=True):
    """How does the engine do? It answers with EngineStatus."""


class EngineStatus(Message, frozen=True):
    """The engine, its workers, its queue and its runs, at one moment.

    ``model`` is what answers worker calls by default; ``workers`` is empty where an endpoint does.
    """

    version: str
    pid: Count
    up_s: Seconds
    model: str
    workers: tuple[WorkerStatus, ...]
    waiting: Count
    runs: Count
    runs_total: Count
    host_calls_total: dict[str, Count]
    dropped_results: Count


class AdapterAdded(Message, frozen=True):
    """The version that answers from now on; ``refused`` has the reasons of workers that can't."""

    ask: Name
    adapter: Name
    version: Count
    model: str
    path: Text
    files_hash: str
    workers: tuple[str, ...]
    refused: dict[str, str] = {}


class Failed(Message, frozen=True):
    """A question that could not be run, or an adapter that could not be loaded.

    ``exit_code`` is as the command line documents it.
    """

    ask: Name
    kind: Name
    detail: Detail
    exit_code: int


FromClient = ClientHello | Ask | Stop | AddAdapter | Inspect
ToClient = Welcome | Progress | Answer | AdapterAdded | Failed | EngineStatus

TRANSITIONS: Transitions = {
    "new": {ClientHello: "greeted"},
    "greeted": {Welcome: "open"},
    "open": {
        Ask: "open",
        Stop: "open",
        Progress: "open",
        Answer: "open",
        AddAdapter: "open",
        AdapterAdded: "open",
        Failed: "open",
        Inspect: "open",
        EngineStatus: "open",
    },
}
"""State → message → next state, whoever sends it."""
