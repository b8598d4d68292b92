"""What a handler returned, held against what it promised."""

import math
from typing import Any

from distill.completion import is_count
from distill.errors import ModelError
from distill.models.handler import ModelHandler
from distill.models.response import LMResponse, ToolCall, Usage


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
