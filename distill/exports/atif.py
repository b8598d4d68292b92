"""An ATIF document, field by field: the Agent Trajectory Interchange Format, version 1.7.

Its specification is Harbor's RFC 0001. The names and the optional fields are that version's; what
ATIF has no field for is in ``extra``. Every field is on every row, null where it is absent, so that
all rows of a file have one type.
"""

from typing import Literal

import msgspec

from distill.exports.row import Row

VERSION = "ATIF-v1.7"
TOOL = "repl"


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a document."""


class _Strings(_Part, frozen=True, kw_only=True):
    type: Literal["string"] = "string"


class _Cells(_Part, frozen=True, kw_only=True):
    type: Literal["array"] = "array"
    items: _Strings = _Strings()
    description: str = "blocks of Python code, run in this order in one session"


class _Properties(_Part, frozen=True, kw_only=True):
    cells: _Cells = _Cells()


class _Parameters(_Part, frozen=True, kw_only=True):
    type: Literal["object"] = "object"
    properties: _Properties = _Properties()
    required: tuple[str, ...] = ("cells",)


class _Function(_Part, frozen=True, kw_only=True):
    name: str = TOOL
    description: str = "Runs the code blocks of a reply in a jailed Python session with the text."
    parameters: _Parameters = _Parameters()


class ToolDefinition(_Part, frozen=True, kw_only=True):
    """A tool as OpenAI's function calling has it."""

    type: Literal["function"] = "function"
    function: _Function = _Function()


class AgentExtra(_Part, frozen=True, kw_only=True):
    """The model below, and the words in which the supervisor is told."""

    worker: str
    dialect: str | None


class Agent(_Part, frozen=True, kw_only=True):
    name: str
    version: str
    model_name: str
    tool_definitions: list[ToolDefinition]
    extra: AgentExtra


class Arguments(_Part, frozen=True, kw_only=True):
    cells: list[str]


class CellOutcome(_Part, frozen=True, kw_only=True):
    """What came of a block: ``status`` is ``ok``, ``error``, ``final`` or ``lost``."""

    cell: int
    status: str
    elapsed_s: float
    worker_calls: int
    worker_calls_failed: int


class ToolCallExtra(_Part, frozen=True, kw_only=True):
    cells: list[CellOutcome]


class ToolCall(_Part, frozen=True, kw_only=True):
    tool_call_id: str
    function_name: str
    arguments: Arguments
    extra: ToolCallExtra


class SubRun(_Part, frozen=True, kw_only=True):
    """A run that a cell asked for; it is the row with this ``trajectory_id``."""

    trajectory_id: str
    trajectory_path: str


class Result(_Part, frozen=True, kw_only=True):
    source_call_id: str | None
    content: str | None
    subagent_trajectory_ref: list[SubRun] | None


class Observation(_Part, frozen=True, kw_only=True):
    results: list[Result]


class Metrics(_Part, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    prompt_token_ids: list[int] | None
    completion_token_ids: list[int] | None
    logprobs: list[float] | None


class ContextManagement(_Part, frozen=True, kw_only=True):
    type: Literal["compaction"] = "compaction"
    boundary: Literal["replace"] = "replace"


class StepExtra(_Part, frozen=True, kw_only=True):
    """``context_management`` is of a step at which the conversation was shortened."""

    turn: int
    elapsed_s: float | None = None
    finish_reason: str | None = None
    forced: bool = False
    context_management: ContextManagement | None = None


class Step(_Part, frozen=True, kw_only=True):
    step_id: int
    timestamp: str | None
    source: Literal["system", "user", "agent"]
    message: str
    extra: StepExtra
    model_name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    observation: Observation | None = None
    metrics: Metrics | None = None
    is_copied_context: bool | None = None
    llm_call_count: int | None = None


class FinalExtra(_Part, frozen=True, kw_only=True):
    worker_calls: int
    worker_prompt_tokens: int
    worker_completion_tokens: int
    elapsed_s: float | None


class FinalMetrics(_Part, frozen=True, kw_only=True):
    total_prompt_tokens: int
    total_completion_tokens: int
    total_cached_tokens: int
    total_cost_usd: float | None
    total_steps: int
    extra: FinalExtra


class Scored(_Part, frozen=True, kw_only=True):
    scorer: str
    value: float


class TrajectoryExtra(_Part, frozen=True, kw_only=True):
    """The question, the answer as JSON, and what else is known of the run."""

    query: str
    answer: str
    status: str | None
    task: str | None
    document: str
    document_chars: int
    score: float | None
    scores: list[Scored]


class AtifRow(Row, frozen=True, kw_only=True):
    """A run as an ATIF document; what each field means is said by its specification.

    Attributes:
    schema_version: the version of ATIF
    session_id: id of the run at the top
    trajectory_id: id of this run
    agent: distill, its supervisor model, its one tool `repl`; `extra`: the worker model
    steps: the conversation: each reply of the supervisor with its code, what came of it, its token
        counts, and its token ids where a local model replied
    notes: what is unusual about it; null: nothing
    final_metrics: sums over the steps; dollars with those of workers and sub-runs; `extra`: what
        the workers used
    extra: question, answer (as JSON), status, scores, and the text asked about, by its SHA-256
    """

    schema_version: str
    session_id: str
    trajectory_id: str
    agent: Agent
    steps: list[Step]
    notes: str | None
    final_metrics: FinalMetrics
    extra: TrajectoryExtra
