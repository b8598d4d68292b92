"""The keywords of ``worker(prompt, …)``: hostile until they are read here."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from distill.errors import WorkerError
from distill.protocol import worker_link as wire
from distill.supervisor.backends import Backend

OPTIONS_LIMIT_BYTES = 64 << 10
"""A schema or list of choices; it travels with every prompt of a batch."""
BATCH_LIMIT = 20_000
"""Prompts of one worker_batch: beyond it the driver, not the workers, is what is loaded."""
OWN_OPTIONS = ("chat", "system", "model", "n", "logprobs")
"""Options of a call that are no sampling parameters."""


def sampling_of(options: Mapping[str, Any]) -> wire.Sampling:
    """Sampling parameters from a cell's keywords; hostile, so checked field by field."""
    options = dict(options)
    if isinstance(options.get("stop"), str):
        options["stop"] = [options["stop"]]
    unknown = set(options) - set(wire.Sampling.__struct_fields__)
    if unknown:
        known = ", ".join((*wire.Sampling.__struct_fields__, *OWN_OPTIONS))
        raise WorkerError(
            f"no such option: {', '.join(sorted(unknown))}; there are {known}", kind="bad_request"
        )
    try:
        sampling = msgspec.convert(options, wire.Sampling)
    except msgspec.ValidationError as error:
        raise WorkerError(f"bad option: {error}", kind="bad_request") from None
    size_bytes = len(msgspec.msgpack.encode(sampling))
    if size_bytes > OPTIONS_LIMIT_BYTES:
        raise WorkerError(
            f"options of {size_bytes} bytes, the limit is {OPTIONS_LIMIT_BYTES}", kind="bad_request"
        )
    if sum(map(bool, (sampling.schema, sampling.choices, sampling.regex))) > 1:
        raise WorkerError("set only one of schema, choices and regex", kind="bad_request")
    return sampling


def conversation_of(prompt: Any, system: Any, item: int) -> tuple[wire.ChatMessage, ...]:
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    try:
        messages = msgspec.convert(prompt, tuple[wire.ChatMessage, ...])
    except msgspec.ValidationError as error:
        raise WorkerError(
            f"prompt {item} must be a str, or a list of {{'role', 'content'}}: {error}",
            kind="bad_request",
        ) from None
    return (wire.ChatMessage("system", str(system)), *messages) if system else messages


def parse_answer(answer: Any, options: Mapping[str, Any]) -> Any:
    """The answer's text, parsed where a schema was asked for; a failure stays what it is."""
    if isinstance(answer, WorkerError) or not options.get("schema"):
        if isinstance(answer, BaseException) and not isinstance(answer, WorkerError):
            return WorkerError(f"{type(answer).__name__}: {answer}")
        return answer
    try:
        return json.loads(answer)
    except ValueError:
        return WorkerError(
            f"the answer is no complete JSON (raise max_tokens?): {answer[:200]!r}", kind="schema"
        )


def conversations_of(
    prompts: Any, system: str, answers: int
) -> list[str | tuple[wire.ChatMessage, ...]]:
    """What a call asks, checked; ``answers`` are wanted to each. Raises WorkerError."""
    if not isinstance(prompts, list | tuple):
        raise WorkerError(
            f"worker_batch takes a list of prompts, not {type(prompts).__name__}",
            kind="bad_request",
        )
    if (count := len(prompts) * answers) > BATCH_LIMIT:
        raise WorkerError(
            f"{count} answers in one call, the limit is {BATCH_LIMIT}",
            kind="bad_request",
        )
    return [
        prompt if isinstance(prompt, str) else conversation_of(prompt, system, item)
        for item, prompt in enumerate(prompts)
    ]


def model_of(options: Mapping[str, Any], backend: Backend) -> str | None:
    """The model that a call names, by all of its name or by what comes after the last slash;
    None for the run's own. Raises WorkerError where no worker serves it.
    """
    name = options.get("model")
    if name is None:
        return None
    models = backend.models()
    named = [model for model in models if name in (model, model.rpartition("/")[2])]
    if len(named) != 1:
        what = "several models are named" if named else "no worker serves"
        there = ", ".join(models)
        raise WorkerError(f"{what} {name!r}; there are: {there}", kind="bad_request")
    return None if named[0] == backend.name else named[0]
