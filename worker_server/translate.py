"""Between the wire's words and vLLM's, as plain data: vLLM is not imported here."""

import math
from collections.abc import Sequence
from typing import Any

from distill.protocol.worker_link import (
    Failure,
    FailureKind,
    Request,
    Result,
    Sampling,
    pack_ids,
    sent_text,
)

DETAIL_LIMIT_CHARS = 4000

_PLAIN = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
)


def failure(
    request: Request,
    kind: FailureKind,
    detail: str,
    prompt_tokens: int | None = None,
    window_tokens: int | None = None,
) -> Failure:
    """A Failure that answers ``request``."""
    return Failure(
        id=request.id,
        attempt=request.attempt,
        kind=kind,
        detail=detail[:DETAIL_LIMIT_CHARS],
        prompt_tokens=prompt_tokens,
        window_tokens=window_tokens,
    )


def malformed(request: Request) -> str | None:
    """What makes ``request`` contradict itself, or None."""
    forms = (request.messages, request.prompt, request.prompt_token_ids)
    if sum(form is not None for form in forms) != 1:
        return "exactly one of messages, prompt and prompt_token_ids must be set"
    if request.messages == () or request.prompt_token_ids == ():
        return "the prompt is empty"
    sampling = request.sampling
    constraints = (sampling.schema is not None, bool(sampling.choices), sampling.regex is not None)
    if sum(constraints) > 1:
        return "at most one of schema, choices and regex may be set"
    return None


def too_long(request: Request, prompt_tokens: int, window_tokens: int) -> Failure | None:
    """The Failure for a prompt that, with the answer asked for, exceeds the window."""
    answer_tokens = request.sampling.max_tokens or 1
    if prompt_tokens + answer_tokens <= window_tokens:
        return None
    fits = max(0, window_tokens - answer_tokens)
    detail = (
        f"the prompt has {prompt_tokens} tokens and the answer may take {answer_tokens}, but this "
        f"model's window is {window_tokens}: shorten the prompt to {fits} tokens"
    )
    if request.sampling.max_tokens is not None and prompt_tokens < window_tokens:
        detail += f", or ask for at most {window_tokens - prompt_tokens} (max_tokens)"
    return failure(request, "too_long", detail, prompt_tokens, window_tokens)


def sampling_arguments(request: Request, prompt_tokens: int, window_tokens: int) -> dict[str, Any]:
    """Keyword arguments of vLLM's SamplingParams, without the constraint."""
    sampling = request.sampling
    arguments: dict[str, Any] = {name: getattr(sampling, name) for name in _PLAIN}
    arguments["top_k"] = max(0, sampling.top_k)
    arguments["stop"] = list(sampling.stop)
    arguments["max_tokens"] = sampling.max_tokens or window_tokens - prompt_tokens
    # 0: no alternatives, only the sampled token's own value.
    arguments["logprobs"] = 0 if request.record == "ids+logprobs" else None
    return arguments


def constraint_arguments(sampling: Sampling) -> dict[str, Any] | None:
    """Keyword arguments of vLLM's StructuredOutputsParams, or None."""
    if sampling.schema is not None:
        return {"json": sampling.schema}
    if sampling.choices:
        return {"choice": list(sampling.choices)}
    if sampling.regex is not None:
        return {"regex": sampling.regex}
    return None


def answer(request: Request, prompt: str, output: Any) -> Result | Failure:
    """A finished RequestOutput of vLLM as a Result; an unfinished or aborted one as a Failure."""
    completion = output.outputs[0]
    reason = completion.finish_reason or "error"
    if reason == "abort":
        return failure(request, "cancelled", "cancelled before it finished")
    if reason == "error":
        constrained = constraint_arguments(request.sampling) is not None
        detail = "the constraint does not compile" if constrained else "the engine failed on it"
        return failure(request, "bad_request" if constrained else "engine", detail)
    token_ids = tuple(completion.token_ids)
    record_ids = request.record != "off"
    queue_s, compute_s = _times(output.metrics)
    return Result(
        id=request.id,
        attempt=request.attempt,
        text=completion.text,
        finish_reason=reason,
        **_around(request, prompt),
        prompt_tokens=len(output.prompt_token_ids),
        completion_tokens=len(token_ids),
        cached_tokens=output.num_cached_tokens or 0,
        prompt_token_ids=pack_ids(output.prompt_token_ids) if record_ids else None,
        token_ids=pack_ids(token_ids) if record_ids else None,
        logprobs=(
            _logprobs(token_ids, completion.logprobs) if request.record == "ids+logprobs" else None
        ),
        queue_s=queue_s,
        compute_s=compute_s,
        adapter=request.adapter,
        weights_version=request.weights_version,
    )


def _around(request: Request, prompt: str) -> dict[str, str]:
    """Fields for the text as the model saw it, without what the driver has sent itself.

    Whichever place is found: the three pieces make up the text.
    """
    sent = sent_text(request)
    place = prompt.find(sent) if sent else -1
    if place < 0:
        return {"prompt": prompt}
    return {"before": prompt[:place], "after": prompt[place + len(sent) :]}


def _logprobs(token_ids: Sequence[int], positions: Any) -> tuple[float, ...]:
    """The sampled tokens' log-probabilities (nats), one per id."""
    if positions is None or len(positions) != len(token_ids):
        raise ValueError(f"{len(positions or ())} log-probabilities for {len(token_ids)} tokens")
    return tuple(
        float(position[token]) if isinstance(position[token], float) else position[token].logprob
        for token, position in zip(token_ids, positions, strict=True)
    )


def _times(metrics: Any) -> tuple[float, float]:
    """Seconds in the engine's queue, and from there to the last token."""
    if metrics is None or not metrics.scheduled_ts:
        return 0.0, 0.0
    queue_s = metrics.scheduled_ts - metrics.queued_ts
    compute_s = metrics.last_token_ts - metrics.scheduled_ts
    return tuple(max(0.0, s) if math.isfinite(s) else 0.0 for s in (queue_s, compute_s))  # type: ignore[return-value]
