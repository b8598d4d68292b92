"""What is asked of an OpenAI-compatible endpoint, in its own names."""

from collections.abc import Mapping
from typing import Any

from distill.completion import is_count
from distill.models.handler import Messages
from distill.token_estimate import estimated_tokens

OPENAI_HOST = "api.openai.com"
REPLY_BOUNDS = ("max_tokens", "max_completion_tokens")
"""What endpoints call the most tokens of a reply, the newer name last."""


def request_of(
    model: str, messages: Messages, sampling: Mapping[str, Any], endpoint: str | None
) -> dict[str, Any]:
    """The arguments of a chat completion."""
    request: dict[str, Any] = {"model": model, "messages": list(messages)}
    request.update(_to_openai(_bounded(sampling, endpoint)))
    return request


def _bounded(sampling: Mapping[str, Any], endpoint: str | None) -> dict[str, Any]:
    """The sampling parameters with one bound of the reply, the lowest, as the endpoint has it.

    OpenAI's newer models refuse max_tokens; other servers may not know the newer name.
    """
    names = [name for name in REPLY_BOUNDS if sampling.get(name) is not None]
    if not names:
        return dict(sampling)
    name = "max_completion_tokens" if endpoint == OPENAI_HOST else names[-1]
    rest = {k: v for k, v in sampling.items() if k not in REPLY_BOUNDS}
    return {**rest, name: min(sampling[each] for each in names)}


def estimate(request: Mapping[str, Any]) -> int:
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
