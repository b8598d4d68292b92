"""What an endpoint answered, as a chat completion: lenient in form, strict in what comes of it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

COUNT_LIMIT = 1 << 53
"""Token counts stay below it: the logs are JSON, where longer integers are not exact."""
REASONING = ("reasoning_content", "reasoning")
"""What endpoints call the text that a model thought, apart from its reply."""


class BadReply(Exception):
    """It is no chat completion; ``status`` is the one that an error inside it has."""

    def __init__(self, said: str, status: int | None = None) -> None:
        super().__init__(said)
        self.status = status


@dataclass(frozen=True, slots=True)
class Completion:
    """One reply as its endpoint gave it. ``tool_calls`` are names with their arguments' text."""

    text: str
    refusal: str
    reasoning: str
    tool_calls: tuple[tuple[str, str], ...]
    finish_reason: str
    model: str
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    reasoning_tokens: int
    logprobs: tuple[float, ...] | None


def is_count(value: Any) -> bool:
    """Whether it can be a number of tokens."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < COUNT_LIMIT


def loaded(body: bytes) -> Any:
    """The JSON of a body. Raises BadReply."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadReply(f"{type(error).__name__}: {error}") from None


def read_completion(body: Any) -> Completion:
    """Take a completion apart. Raises BadReply: there is none in it."""
    choices = body.get("choices") if isinstance(body, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    for part in (first, body):
        if (error := error_in(part)) is not None:
            raise _told(error)
    if first is None:
        raise BadReply("it has no choices")
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(message, dict):
        raise BadReply("its first choice has no message")
    text, thought = content_of(message.get("content"))
    finish, usage = first.get("finish_reason"), body.get("usage")
    used = _count(usage, "prompt_tokens")
    details, more = _of(usage, "prompt_tokens_details"), _of(usage, "completion_tokens_details")
    cached = _count(details, "cached_tokens") or _count(usage, "prompt_cache_hit_tokens")
    return Completion(
        text,
        _text(message.get("refusal")),
        reasoning_of(message) or thought,
        _tool_calls(message),
        finish if isinstance(finish, str) and finish else "stop",
        _text(body.get("model")),
        used,
        _count(usage, "completion_tokens"),
        min(cached, used),  # more would be paid back
        _count(more, "reasoning_tokens"),
        _logprobs(first.get("logprobs")),
    )


def content_of(content: Any) -> tuple[str, str]:
    """A content's text, and what it has of thought; parts of other kinds are left out."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, list):
        raise BadReply(f"its content is a {type(content).__name__}, not text")
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content:
        if isinstance(part, dict) and part.get("type") == "thinking":
            inner = part.get("thinking")
            thoughts.append(content_of(inner)[0])
        elif isinstance(part, dict):
            texts.append(_text(part.get("text")))
    return "".join(texts), "".join(thoughts)


def reasoning_of(message: Mapping[str, Any]) -> str:
    """What the model thought, where its endpoint says so beside the reply."""
    return next((text for name in REASONING if (text := _text(message.get(name)))), "")


def error_in(part: Any) -> Any:
    """The error that a body, a choice or an event has in place of a reply; None: it has none."""
    if not isinstance(part, dict):
        return None
    return part if part.get("object") == "error" else part.get("error") or None


def _told(error: Any) -> BadReply:
    """An error that came where a completion should, as some proxies and all streams send it."""
    code = _of(error, "code")
    status = int(code) if str(code).isdecimal() and 400 <= int(code) < 600 else None
    return BadReply(_text(_of(error, "message")) or json.dumps(error)[:500], status)


def _tool_calls(message: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    calls = message.get("tool_calls")
    functions = [_of(each, "function") for each in calls] if isinstance(calls, list) else []
    functions.append(message.get("function_call"))  # as it was before there were several
    return tuple(
        (_text(each.get("name")), _arguments(each.get("arguments")))
        for each in functions
        if isinstance(each, dict)
    )


def _arguments(value: Any) -> str:
    """Arguments are a text that should be JSON; some endpoints send the JSON itself."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _of(part: Any, name: str) -> Any:
    return part.get(name) if isinstance(part, dict) else None


def _count(part: Any, name: str) -> int:
    """A token count; 0 where the endpoint gives none, or nonsense."""
    value = _of(part, name)
    return value if is_count(value) else 0


def _logprobs(told: Any) -> tuple[float, ...] | None:
    """One value for each token of a reply; None if the endpoint gave none, or nonsense."""
    try:
        values = tuple(float(token["logprob"]) for token in told["content"])
    except (KeyError, TypeError, ValueError):
        return None
    return values if all(map(math.isfinite, values)) else None
