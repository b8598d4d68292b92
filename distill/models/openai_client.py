"""The client of an OpenAI-compatible endpoint: how it is made, and what its errors mean.

The only module that imports ``openai``; that costs 0.8 s, so it waits for the first request.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distill.attempts import Attempts
from distill.bounded_http import STALLED, bound
from distill.completion import BadReply
from distill.window_errors import says_too_long

if TYPE_CHECKING:
    import openai

    Client = openai.OpenAI

NONSENSE_RETRIES = 2
"""Tries after the first where the reply is no chat completion: a proxy's trouble passes."""
BROKEN = frozenset(("RemoteProtocolError", "ReadError", "WriteError"))
"""What httpx2 raises of a connection that was there."""
FILTER = re.compile("content_filter|content management policy|responsible.?ai", re.IGNORECASE)


def open_client(settings: Mapping[str, Any], auth: Any, stall_s: float) -> "Client":
    """The client that openai would make, proxies included, but bounded."""
    import openai

    client = bound(openai.DefaultHttpxClient(auth=auth), openai.OpenAIError, stall_s)
    return openai.OpenAI(**settings, http_client=client)


def served_models(client: "Client", timeout_s: float) -> dict[str, Any]:
    """The models that the endpoint serves, with their windows where it says (vLLM does).

    Empty where it has no list of them, which is fine.
    """
    import openai

    try:
        page: Any = client.with_options(timeout=timeout_s).models.list()
    except openai.NotFoundError:
        return {}
    return {model.id: getattr(model, "max_model_len", None) for model in page.data}


def goes_on(error: Exception, attempts: Attempts) -> bool:
    """Whether a call whose try ended with this error is tried again."""
    import openai

    if isinstance(error, BadReply):
        again = attempts.failed(error.status, {}) and not says_too_long(error.status, str(error))
        return again and (error.status is not None or attempts.count <= NONSENSE_RETRIES)

    if isinstance(error, openai.APIStatusError):
        again = attempts.failed(error.status_code, error.response.headers)
        return again and not says_too_long(error.status_code, str(error))
    return isinstance(error, openai.APIConnectionError) and attempts.failed(None, {})


def said_by(error: Exception) -> tuple[int | None, str]:
    """The status of an error, and what the endpoint said, without the client's own words."""
    status = getattr(error, "status_code", None) or getattr(error, "status", None)
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    return status, said if isinstance(said, str) else str(body or error)


def explain(error: Exception, names: tuple[str, str], *, own: bool) -> str | None:
    """What went wrong at the endpoint, and what to do about it; None: it is not the client's word.

    ``names`` are what the user calls the address and the key; ``own``: the address is given.
    """
    import openai

    if not isinstance(error, openai.OpenAIError):
        return None
    address, key = names
    status = getattr(error, "status_code", None)
    if isinstance(error, openai.APIConnectionError):
        return _unreached(error, address, own=own)
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


def _unreached(error: "openai.APIConnectionError", address: str, *, own: bool) -> str:
    import openai

    if isinstance(error, openai.APITimeoutError):
        if STALLED in (why := str(error.__cause__)):
            return f"{why}; check the endpoint's load, or raise stall_s"
        return "no answer in time; raise the timeout, or check the endpoint's load"
    advice = f"check {address} and that it runs" if own else "check the network"
    broke = type(error.__cause__).__name__ in BROKEN
    what = "the connection broke" if broke else "can't be reached"
    return f"{what} ({error.__cause__ or error}); {advice}"
