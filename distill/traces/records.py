"""Every record of both logs, field by field: the schema is generated from these classes.

One JSON object a line. ``v`` is the schema version, ``type`` the record's kind, ``t`` the
wall clock in seconds since 1970, ``run`` the run it belongs to (null for an event of the
engine itself), ``producer`` the process that it tells of.
"""

from typing import Any, Literal

import msgspec

SCHEMA_VERSION = 2
SUPERVISOR_LOG = "supervisor.jsonl"
WORKER_LOG = "worker.jsonl"
CONTEXT_FOLDER = "contexts"
SPOOL_FOLDER = "spool"

ProcessKind = Literal["driver", "launcher", "placer", "sandbox", "scorer", "worker_server"]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A part of a record. Plain data, in no cycle: nothing for the garbage collector to look at."""


class Record(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower, kw_only=True):
    """What every record has. Unknown fields are ignored: an older reader survives."""

    v: int = SCHEMA_VERSION
    t: float
    run: str | None
    producer: "Producer"


class Producer(Part, frozen=True):
    """A process: its kind, its name in this engine, its pid on its host."""

    kind: ProcessKind
    name: str
    pid: int


class ContextRef(Part, frozen=True):
    """The text asked about, stored once under ``contexts/`` by the SHA-256 of its bytes.

    ``chars`` counts characters of the text, or of all texts in a list or dict.
    """

    sha256: str
    kind: Literal["text", "json"]
    chars: int
    bytes: int
    file: str
    sources: tuple[str, ...] = ()


class TokenUsage(Part, frozen=True, omit_defaults=True):
    """Tokens in and out; ``cached`` of the input came from a prefix cache."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


class ParentCall(Part, frozen=True):
    """The call that a sub-run is for: ``item`` of the questions of call ``call`` in ``cell`` of
    ``run``. ``key`` is the hash of function and arguments, as in the call's ``primitive``.
    """

    run: str
    cell: int
    call: int
    item: int
    key: str


class RunStart(Record, frozen=True, tag="run_start"):
    """A run begins; everything that decided how it goes. ``parent``: it is a sub-run of another.

    ``redacted`` names the patterns whose matches were replaced before anything was written: the
    texts of such a run are not what was sent, so its lines have no ids and no log-probabilities,
    and it can't be resumed or replayed.
    """

    query: str
    context: ContextRef
    supervisor: str
    worker: str
    options: dict[str, Any]
    versions: dict[str, str]
    label: str | None = None
    parent: ParentCall | None = None
    redacted: tuple[str, ...] = ()


class Process(Record, frozen=True, tag="process"):
    """A process that takes part in the run; in both files, so that each stands alone."""

    detail: dict[str, Any] = {}


class Event(Record, frozen=True, tag="event"):
    """Something happened to a process: started, ready, lost, restarted, ended."""

    event: str
    detail: dict[str, Any] = {}


class Message(Record, frozen=True, tag="message"):
    """One message of the conversation, logged once, when it is added.

    ``index`` is its place; a turn's request is every message with a lower index than its
    reply's, unless a ``compaction`` came before.
    """

    index: int
    turn: int
    role: Literal["system", "user", "assistant"]
    content: str


class Turn(Record, frozen=True, tag="turn"):
    """One reply of the supervisor model.

    Its request is every message with an index below ``request_messages``, unless the conversation
    was shortened before: ``compactions`` says how often, and the last of them how. ``refused``: the
    endpoint gave the reply as a refusal. The last ``tool_calls`` of the message came in the
    endpoint's own form. ``queue_s`` of ``elapsed_s`` it waited for the endpoint's limits and
    between attempts. Token ids and log-probabilities are as sampled, where the engine's own model
    is the supervisor, and ``gpu_s`` the reply's share of that worker server's ``device``.
    """

    turn: int
    request_messages: int
    reply_index: int
    model: str
    usage: TokenUsage
    elapsed_s: float
    cells: int
    forced: bool = False
    attempt: int = 1
    queue_s: float = 0.0
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    gpu_s: float = 0.0
    device: str = ""
    compactions: int = 0
    finish_reason: str | None = None
    refused: bool = False
    tool_calls: int = 0
    reasoning: str = ""


class Compaction(Record, frozen=True, tag="compaction"):
    """The conversation had become too long: from here on a request leaves a part of it out.

    It is the first ``opening`` messages, ``added``, and the messages from index ``kept_from`` on.
    ``reason``: it would not have fitted the ``window``, or the ``endpoint`` said that it did not.
    Tokens are estimates, of the request before and after.
    """

    turn: int
    reason: Literal["window", "endpoint"]
    opening: int
    added: tuple[dict[str, str], ...]
    kept_from: int
    tokens_before: int
    tokens: int


class Variable(Part, frozen=True):
    """A name in the REPL after a cell: type, short repr, length where it has one."""

    name: str
    type: str
    repr: str
    size: int | None = None


class CellFailure(Part, frozen=True):
    """The exception that ended a cell."""

    name: str
    message: str
    traceback: str
    line: int | None = None


class Restored(Part, frozen=True):
    """How a session came back after its jail had died, by running its finished cells again.

    ``upto`` is the last cell that stands (0: none), ``why`` says what could not be run again
    (null: everything stands). ``lost_names`` are gone or hold something older,
    ``changed_names`` hold other values now; ``differing`` cells printed other text.
    """

    upto: int
    cells: int
    elapsed_s: float
    why: str | None = None
    lost_names: tuple[str, ...] = ()
    changed_names: tuple[str, ...] = ()
    differing: tuple[int, ...] = ()


class Cell(Record, frozen=True, tag="cell"):
    """One block of the model's code and what came of it.

    ``status``: ``ok``, ``error`` (it raised), ``final`` (it called FINAL) or ``lost`` (the
    jail died: ``lost`` says how, ``restored`` what came back). ``cpu_s`` is the jail's CPU time
    during the cell, ``spent_s`` what it used of the run's ``run_s``. ``blocked`` says why it can't
    be run again, null if it can.
    """

    turn: int
    cell: int
    code: str
    status: Literal["ok", "error", "final", "lost"]
    stdout: str
    stderr: str
    elapsed_s: float
    cpu_s: float
    error: CellFailure | None = None
    lost: str | None = None
    variables: tuple[Variable, ...] = ()
    dropped_bytes: int = 0
    interrupted: bool = False
    live_threads: int = 0
    blocked: str | None = None
    spent_s: float = 0.0
    restored: Restored | None = None


class Primitive(Record, frozen=True, tag="primitive"):
    """A host function called from a cell, other than the workers; exact both ways.

    Also a FINAL that was refused: ``args`` is empty where the value was too long for the log.
    ``key`` is the hash of function and arguments. ``value`` beside an ``error`` is what that
    carries: ``answers`` and ``errors``. ``reused``: it did not run; the value is what an equal call
    of a failed cell had got; ``replayed``: what that of a recorded run had got.
    """

    cell: int
    call: int
    function: str
    args: list[Any]
    kwargs: dict[str, Any]
    elapsed_s: float
    value: Any = None
    error: str | None = None
    key: str = ""
    reused: bool = False
    replayed: bool = False


class Batch(Record, frozen=True, tag="batch"):
    """A ``worker`` or ``worker_batch`` call: its items are ``call`` lines in worker.jsonl.

    ``key`` is the hash of function and arguments, empty where a primitive made the call.
    ``error`` is what the cell was told if it was not the value. ``refused`` of the items were not
    sent, or given up, for a budget: they have no line, and ``refusal`` is what each was told.
    ``n``: the items are that many answers to each prompt.
    """

    cell: int
    call: int
    function: str
    items: int
    failed: int
    elapsed_s: float
    key: str = ""
    error: str | None = None
    n: int | None = None
    refused: int = 0
    refusal: str | None = None


class Final(Record, frozen=True, tag="final"):
    """The first FINAL of a run: from here on nothing changes the answer."""

    cell: int
    value: Any


class TreeUse(Part, frozen=True):
    """What a run and its ``sub_runs`` (at any depth) have used; dollars are null where a price is
    not known.
    """

    sub_runs: int
    supervisor_usage: TokenUsage
    worker_usage: TokenUsage
    worker_calls: int
    dollars: float | None
    worker_failures: int = 0


class RunEnd(Record, frozen=True, tag="run_end"):
    """A run ended. ``status`` says how; ``answer`` is null unless there was one.

    ``final``: by FINAL. ``forced``: the last turn's text. ``unanswered``: no answer within
    the turns. ``failed`` and ``cancelled``: ``error`` says why. ``answer_problem`` says what was
    wrong with a ``forced`` answer; that may also be one that FINAL had refused. ``ended_by`` names
    the budget that ended it, null if none did. Usage and dollars are this run's own, ``tree`` has
    its sub-runs' as well and is null where it had none; dollars are null where a price is not
    known; ``gpu_s`` are seconds of worker servers' devices. ``read_chars`` of the context stand in
    prompts that were answered, its sub-runs' on the same context included, each passage counted in
    one place (``distill.traces.provenance`` finds them all).
    """

    status: Literal["final", "forced", "unanswered", "failed", "cancelled"]
    answer: Any
    iterations: int
    supervisor_usage: TokenUsage
    worker_usage: TokenUsage
    worker_calls: int
    elapsed_s: float
    error: str | None = None
    worker_cached: int = 0
    answer_problem: str | None = None
    ended_by: str | None = None
    supervisor_dollars: float | None = None
    worker_dollars: float | None = None
    gpu_s: float = 0.0
    tree: TreeUse | None = None
    worker_failures: int = 0
    read_chars: int = 0


class Score(Record, frozen=True, tag="score"):
    """What a scorer says of a run that has ended: appended later, while no run writes.

    ``value`` is 0 to 1, null where the scorer could not tell; a run without such a record is not
    scored. The last record of one ``scorer`` counts, earlier ones stay. ``label`` is what the
    answer was held against; ``usage`` and ``dollars`` are what a judge has cost.
    """

    scorer: str
    value: float | None
    detail: str = ""
    label: Any = None
    usage: TokenUsage | None = None
    dollars: float | None = None
    elapsed_s: float = 0.0


class Span(Part, frozen=True, omit_defaults=True):
    """Characters ``prompt_start…`` of a prompt are ``start:end`` of the context.

    In a list or dict ``part`` is the index or key of the text. A text that stands in several
    places of the context is attributed to one of them.
    """

    start: int
    end: int
    prompt_start: int
    part: str | None = None


class CallFailure(Part, frozen=True):
    """Why a worker call has no response."""

    kind: str
    detail: str


class Model(Part, frozen=True, omit_defaults=True):
    """Which model answered, to the byte: SHA-256 hashes, empty where nobody can know."""

    model: str
    weights_hash: str = ""
    tokenizer_hash: str = ""
    template_hash: str = ""
    adapter: str | None = None
    weights_version: int = 0
    adapter_hash: str = ""
    dtype: str = ""
    device: str = ""
    engine: str = ""
    engine_version: str = ""
    window_tokens: int = 0
    logprobs_mode: str = ""


class MessageSpan(Part, frozen=True):
    """A message of a call: its content is characters ``start:end`` of the call's prompt."""

    role: str
    start: int
    end: int


class Call(Record, frozen=True, tag="call", gc=False, kw_only=True, omit_defaults=True):
    """One worker call; the line stands alone.

    ``prompt`` is the text as the model saw it, template included; ``messages`` what was
    asked, which the line does not repeat where ``message_spans`` say where it stands in the prompt
    (``distill.traces.read`` gives both). ``token_ids`` and ``logprobs`` are as sampled, never
    retokenised. ``call`` and ``item`` join it to its ``batch``, ``cell`` to its cell. ``source`` is
    ``reused`` where an equal call of a failed cell had got this response: that line has the ids,
    and was paid for; ``cached`` where the answer cache had it, maybe from another run: no tokens,
    no ids; ``replayed`` where the run does a recorded one again, and that run had got it: the same.
    ``gpu_s`` is its share of the worker server's device, which those in flight at once share.
    """

    # Of all that have a default only this is in every line: what a later version means by it.
    v: int = msgspec.field(default_factory=lambda: SCHEMA_VERSION)
    id: str
    turn: int
    cell: int
    call: int
    item: int
    function: str
    attempt: int
    prompt: str
    response: str | None
    finish_reason: str | None
    usage: TokenUsage
    sampling: dict[str, Any]
    model: Model
    source: Literal["sampled", "cached", "reused", "replayed"] = "sampled"
    messages: tuple[dict[str, str], ...] | None = None
    message_spans: tuple[MessageSpan, ...] | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    spans: tuple[Span, ...] = ()
    context_sha256: str = ""
    error: CallFailure | None = None
    queue_s: float = 0.0
    compute_s: float = 0.0
    total_s: float = 0.0
    gpu_s: float = 0.0


def whole(line: Call) -> Call:
    """The line with its messages, which it may have only as places in its prompt."""
    if line.message_spans is None:
        return line
    messages = tuple(
        {"role": span.role, "content": line.prompt[span.start : span.end]}
        for span in line.message_spans
    )
    return msgspec.structs.replace(line, messages=messages)


SupervisorRecord = (
    RunStart
    | Process
    | Event
    | Message
    | Turn
    | Compaction
    | Cell
    | Primitive
    | Batch
    | Final
    | RunEnd
    | Score
)
WorkerRecord = Process | Event | Call
AnyRecord = SupervisorRecord | Call

LOG_RECORDS = {SUPERVISOR_LOG: SupervisorRecord, WORKER_LOG: WorkerRecord}


def json_schema(log: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one line of ``log``, a key of LOG_RECORDS."""
    schema, definitions = msgspec.json.schema_components(
        [LOG_RECORDS[log]], ref_template="#/$defs/{name}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"One line of {log}, schema version {SCHEMA_VERSION}",
        **schema[0],
        "$defs": definitions,
    }
