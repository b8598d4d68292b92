"""What ``--where`` may ask about: every field by its name, with its meaning."""

from collections.abc import Callable
from typing import Any, NamedTuple

from distill.exports.graded import GradedRun
from distill.traces import records


class Field(NamedTuple):
    """``get`` takes a GradedRun, a Turn, a Cell or a Call."""

    meaning: str
    get: Callable[[Any], Any]


def _start(name: str) -> Callable[[GradedRun], Any]:
    return lambda each: getattr(each.start, name)


def _end(name: str) -> Callable[[GradedRun], Any]:
    return lambda each: getattr(each.run.end, name, None)


def _model(name: str) -> Callable[[records.Call], Any]:
    return lambda call: getattr(call.model, name)


def _own(name: str) -> Callable[[Any], Any]:
    return lambda record: getattr(record, name)


RUN = {
    "id": Field("its id", lambda each: each.run.id),
    "folder": Field("its log folder", lambda each: str(each.run.folder)),
    "task": Field("its label: of a run of `--tasks`, the task's id", _own("task")),
    "query": Field("the question", _start("query")),
    "answer": Field("the answer", lambda each: each.run.answer),
    "status": Field(
        "`final`, `forced`, `unanswered`, `failed`, `cancelled`; None: cut off", _end("status")
    ),
    "score": Field(
        "by the scorer that `--score` names, or the only one; None: none", _own("score")
    ),
    "supervisor": Field("its supervisor model", _start("supervisor")),
    "worker": Field("its worker model", _start("worker")),
    "is_sub_run": Field("whether another run asked for it", lambda each: each.root is not each),
    "is_redacted": Field("whether its texts were redacted", lambda each: bool(each.redacted)),
    "document": Field("SHA-256 of the text", _own("document")),
    "chars": Field("characters of the text", lambda each: each.start.context.chars),
    "sources": Field("files that it was read from", lambda each: list(each.start.context.sources)),
    "turns": Field("replies of the supervisor", lambda each: len(each.run.turns)),
    "cells": Field("blocks of code that were run", lambda each: len(each.run.cells)),
    "failed_cells": Field(
        "of them, that raised or lost the jail",
        lambda each: sum(cell.status in ("error", "lost") for cell in each.run.cells),
    ),
    "worker_calls": Field("worker calls that ended", _end("worker_calls")),
    "tokens": Field("of both models, in and out, sub-runs included", _own("tokens")),
    "dollars": Field("what it cost, sub-runs included; None: not known", _own("dollars")),
    "elapsed_s": Field("seconds", _end("elapsed_s")),
    "ended_by": Field("the budget that ended it", _end("ended_by")),
    "t": Field("when it began: seconds since 1970", _start("t")),
    "options": Field('its options: `run.options["dialect"]`', _start("options")),
}
TURN = {
    "turn": Field("its number, from 1", _own("turn")),
    "model": Field("the model, as its endpoint named it", _own("model")),
    "input_tokens": Field("of the request", lambda turn: turn.usage.input_tokens),
    "output_tokens": Field("of the reply", lambda turn: turn.usage.output_tokens),
    "elapsed_s": Field("of the request", _own("elapsed_s")),
    "cells": Field("code blocks in the reply", _own("cells")),
    "forced": Field("the last turn, which must answer", _own("forced")),
    "refused": Field("the endpoint gave the reply as a refusal", _own("refused")),
    "attempt": Field("which attempt answered, from 1", _own("attempt")),
    "finish_reason": Field("why the reply ended", _own("finish_reason")),
}
CELL = {
    "cell": Field("its number, from 1", _own("cell")),
    "status": Field("`ok`, `error`, `final`, `lost`", _own("status")),
    "code": Field("as it ran", _own("code")),
    "stdout": Field("what it printed", _own("stdout")),
    "error": Field(
        "class of the exception that ended it", lambda cell: cell.error and cell.error.name
    ),
    "elapsed_s": Field("seconds", _own("elapsed_s")),
    "cpu_s": Field("of the jail", _own("cpu_s")),
}
CALL = {
    "id": Field("its id", _own("id")),
    "function": Field("`worker` or `worker_batch`", _own("function")),
    "prompt": Field("the text as the model saw it", _own("prompt")),
    "response": Field("the completion; None: it failed", _own("response")),
    "source": Field("`sampled`, `cached`, `reused`, `replayed`", _own("source")),
    "finish_reason": Field("`stop` or `length`", _own("finish_reason")),
    "error": Field("why there is none: its kind", lambda call: call.error and call.error.kind),
    "attempt": Field("which attempt answered, from 1", _own("attempt")),
    "input_tokens": Field("of the prompt", lambda call: call.usage.input_tokens),
    "output_tokens": Field("of the completion", lambda call: call.usage.output_tokens),
    "spans": Field("parts of the prompt that stand in the text", lambda call: len(call.spans)),
    "sampling": Field('its sampling: `call.sampling["temperature"]`', _own("sampling")),
    "has_ids": Field("whether its token ids are there", lambda call: call.token_ids is not None),
    "has_logprobs": Field("its log-probabilities", lambda call: call.logprobs is not None),
    "model": Field("the model that answered", _model("model")),
    "adapter": Field("the LoRA adapter; None: the model itself", _model("adapter")),
    "weights_version": Field("of the adapter", _model("weights_version")),
    "weights_hash": Field("of the model", _model("weights_hash")),
    "queue_s": Field("it waited", _own("queue_s")),
    "compute_s": Field("from there to the last token", _own("compute_s")),
    "total_s": Field("since the driver took it", _own("total_s")),
}
FIELDS: dict[str, dict[str, Field]] = {"run": RUN, "turn": TURN, "cell": CELL, "call": CALL}
