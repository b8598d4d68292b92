"""What a span tells of a record: the attributes of the semantic conventions, and distill's own.

Names: https://opentelemetry.io/docs/specs/semconv/gen-ai/, as in opentelemetry-semantic-conventions
0.66 (they are strings here, so that this module needs no extra). Texts of the run are in none of
them unless ``content`` is wanted.
"""

import builtins
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from distill.supervisor.text import clip, printable
from distill.traces import records

CONTENT_CHARS = 8000
"""Of a text, what a span has at most: its head and its tail."""
NAME_CHARS = 200
OTHER = "_OTHER"
"""Of errors with no name that is known beforehand (the conventions' word for it)."""
KNOWN_ERRORS = frozenset(
    name for name, value in vars(builtins).items() if isinstance(value, type)
) | frozenset(
    "WorkerError WorkerBatchError WorkerBudgetError SubRunError PrimitiveError LimitError".split()
)
"""Classes that a cell's error may be named after; one of the cell's own may be a text."""

Attributes = dict[str, Any]


@dataclass(slots=True)
class Sums:
    """Over worker calls."""

    calls: int = 0
    failed: int = 0
    without_asking: int = 0
    """That a cache, an earlier equal call or a log answered."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    gpu_s: float = 0.0
    queue_s: float = 0.0

    def add(self, call: records.Call) -> None:
        """One more."""
        usage = call.usage
        self.calls += 1
        self.failed += call.error is not None
        self.without_asking += call.source != "sampled"
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.cached_tokens += usage.cached_input_tokens
        self.gpu_s += call.gpu_s
        self.queue_s += call.queue_s

    def attributes(self) -> Attributes:
        """Not under the conventions' names: the calls' own spans have those."""
        return {
            "distill.worker.calls": self.calls,
            "distill.worker.failed": self.failed,
            "distill.worker.not_sampled": self.without_asking,
            "distill.worker.input_tokens": self.input_tokens,
            "distill.worker.output_tokens": self.output_tokens,
            "distill.worker.cached_input_tokens": self.cached_tokens,
            "distill.worker.gpu_s": round(self.gpu_s, 6),
            "distill.worker.queue_s": round(self.queue_s, 6),
        }


def run_attributes(
    run: str, start: records.RunStart | None, end: records.RunEnd, *, content: bool
) -> Attributes:
    """Of the whole run; usage is the supervisor's."""
    found: Attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "distill",
        "gen_ai.conversation.id": run,
        "distill.run.status": end.status,
        "distill.run.turns": end.iterations,
        "distill.run.ended_by": end.ended_by,
        "distill.run.gpu_s": round(end.gpu_s, 6),
        "distill.supervisor.dollars": end.supervisor_dollars,
        "distill.worker.dollars": end.worker_dollars,
        "distill.worker.calls": end.worker_calls,
        "distill.worker.cached": end.worker_cached,
        "distill.worker.input_tokens": end.worker_usage.input_tokens,
        "distill.worker.output_tokens": end.worker_usage.output_tokens,
        **_usage(end.supervisor_usage),
    }
    if end.status in ("failed", "cancelled"):
        found["error.type"] = end.status
    if start is not None:
        found |= {
            **_supervisor(start),
            "gen_ai.agent.version": start.versions.get("distill"),
            "distill.worker.model": short(start.worker),
            "distill.context.chars": start.context.chars,
            "distill.context.sha256": start.context.sha256,
            "distill.run.parent": start.parent.run if start.parent is not None else None,
        }
        if content:
            found["distill.run.label"] = sendable(start.label or "")
            found["gen_ai.input.messages"] = _messages([("user", start.query)])
    if content and end.answer is not None:
        answer = end.answer if isinstance(end.answer, str) else _json(end.answer)
        found["gen_ai.output.messages"] = _messages([("assistant", answer)], "stop")
    return found


def chat_attributes(
    start: records.RunStart | None, turn: records.Turn, said: Sequence[records.Message]
) -> Attributes:
    """Of a reply of the supervisor; ``said`` are the messages since the one before, and it."""
    found: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.response.model": short(turn.model),
        "gen_ai.response.finish_reasons": _reasons(turn.finish_reason),
        **_usage(turn.usage),
        "distill.turn": turn.turn,
        "distill.turn.forced": turn.forced,
        "distill.turn.attempt": turn.attempt,
        "distill.turn.queue_s": round(turn.queue_s, 6),
        "distill.turn.cells": turn.cells,
        "distill.turn.compactions": turn.compactions,
        "distill.turn.gpu_s": round(turn.gpu_s, 6),
    }
    if start is not None:
        found |= _supervisor(start)
    asked = [(each.role, each.content) for each in said if each.index != turn.reply_index]
    replied = [("assistant", each.content) for each in said if each.index == turn.reply_index]
    if asked:
        found["gen_ai.input.messages"] = _messages(asked)
    if replied:
        found["gen_ai.output.messages"] = _messages(replied, turn.finish_reason or "stop")
    return found


def cell_attributes(cell: records.Cell, sums: Sums, left_out: int, *, content: bool) -> Attributes:
    """Of a block of code; ``left_out`` spans below it were not sent."""
    found: Attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "repl",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": str(cell.cell),
        "distill.cell.status": cell.status,
        "distill.cell.cpu_s": round(cell.cpu_s, 6),
        "distill.cell.stdout_chars": len(cell.stdout),
        "distill.cell.spans_left_out": left_out,
        **sums.attributes(),
    }
    if cell.error is not None:
        found["error.type"] = cell.error.name if cell.error.name in KNOWN_ERRORS else OTHER
    elif cell.status == "lost":
        found["error.type"] = "lost"
    if content:
        found["gen_ai.tool.call.arguments"] = sendable(cell.code)
        found["gen_ai.tool.call.result"] = sendable(cell.stdout + cell.stderr)
    return found


def name_of(function: str, start: records.RunStart | None) -> str:
    """A function that the run had; any other name is the cell's own word."""
    known = start.options.get("primitives", {}) if start is not None else {}
    return function if function == "FINAL" or function in known else OTHER


def primitive_attributes(call: records.Primitive, name: str, *, content: bool) -> Attributes:
    """Of a function of the host that a cell called."""
    found: Attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": name,
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": f"{call.cell}.{call.call}",
        "error.type": OTHER if call.error is not None else None,
    }
    if content:
        found["gen_ai.tool.call.arguments"] = _json({"args": call.args, "kwargs": call.kwargs})
        found["gen_ai.tool.call.result"] = _json(call.value)
    return found


def batch_attributes(batch: records.Batch, sums: Sums) -> Attributes:
    """Of a ``worker`` or ``worker_batch`` call, over all its items."""
    return {
        "distill.batch.items": batch.items,
        "distill.batch.failed": batch.failed,
        "distill.batch.refused": batch.refused,
        "error.type": OTHER if batch.error is not None else None,
        **sums.attributes(),
    }


def call_attributes(call: records.Call, *, content: bool) -> Attributes:
    """Of one worker call."""
    sampling = call.sampling
    found: Attributes = {
        "gen_ai.operation.name": "text_completion" if _is_bare(call) else "chat",
        "gen_ai.provider.name": call.model.engine or "unknown",
        "gen_ai.request.model": short(call.model.model),
        "gen_ai.response.id": call.id,
        "gen_ai.response.finish_reasons": _reasons(call.finish_reason),
        **{
            f"gen_ai.request.{name}": value
            for name in ("max_tokens", "temperature", "top_p", "seed")
            if isinstance(value := sampling.get(name), int | float)
        },
        **_usage(call.usage),
        "distill.call.attempt": call.attempt,
        "distill.call.source": call.source,
        "distill.call.item": call.item,
        "distill.call.server": call.producer.name,
        "distill.call.queue_s": call.queue_s,
        "distill.call.compute_s": call.compute_s,
        "distill.call.gpu_s": call.gpu_s,
        "error.type": call.error.kind if call.error is not None else None,
    }
    if content:
        found["gen_ai.input.messages"] = _messages([("user", _plain(call.prompt))])
        if call.response is not None:
            reply = [("assistant", _plain(call.response))]
            found["gen_ai.output.messages"] = _messages(reply, call.finish_reason or "stop")
    return found


def _is_bare(call: records.Call) -> bool:
    """A prompt that no template was put around."""
    return call.messages is None and call.message_spans is None and call.error is None


def _supervisor(start: records.RunStart) -> Attributes:
    """Which model was asked to write the code, and where."""
    url = start.options.get("supervisor_url")
    found: Attributes = {
        # The API that it is asked by, as the conventions have it; recipes are distill's own.
        "gen_ai.provider.name": "openai" if url else "distill",
        "gen_ai.request.model": short(start.supervisor),
    }
    if isinstance(url, str):
        parts = urlsplit(url)
        found |= {"server.address": parts.hostname, "server.port": parts.port}
    return found


def _usage(usage: records.TokenUsage) -> Attributes:
    return {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens or None,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens or None,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens or None,
    }


def _reasons(reason: str | None) -> list[str] | None:
    return None if reason is None else [short(reason)]


def _messages(said: Sequence[tuple[str, str]], finish_reason: str | None = None) -> str:
    """As the conventions' JSON schemas of input and output messages have them."""
    share = max(200, CONTENT_CHARS // max(1, len(said)))
    told: list[Mapping[str, Any]] = [
        {"role": role, "parts": [{"type": "text", "content": clip(text, share)}]}
        for role, text in said
    ]
    if finish_reason is not None:
        told = [{**each, "finish_reason": finish_reason} for each in told]
    return json.dumps(told)  # ASCII: whatever a model or a jail wrote, it can be sent


def _json(value: Any) -> str:
    return clip(json.dumps(value), CONTENT_CHARS)


def sendable(text: str) -> str:
    """A text within the limit, such that it can be sent."""
    return clip(printable(text), CONTENT_CHARS)


def short(text: str) -> str:
    """A name that an endpoint or a user gave."""
    return clip(printable(text), NAME_CHARS)


def _plain(value: Any) -> str:
    """A text, which may be JSON already."""
    return str(msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value)
