"""What ``worker.jsonl`` says of a worker call: the line that stands alone."""

import functools
from typing import Any

import msgspec

from distill.protocol import worker_link as wire
from distill.supervisor.answer_cache import Known
from distill.supervisor.asked import Asked
from distill.supervisor.backends import messages_of
from distill.supervisor.journal import now
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.requests import Outcome
from distill.supervisor.run_log import RunLog
from distill.supervisor.volume import ids_json, text_json
from distill.traces import records


class CallLines:
    """Makes the lines of one run. ``model`` is the name that serves where nobody says."""

    def __init__(self, log: RunLog, index: SpanIndex, context_sha256: str, model: str) -> None:
        self._log = log
        self._index = index
        self._context_sha256 = context_sha256
        self._model = model

    def line(self, asked: Asked, item: int, outcome: Outcome) -> records.Call:
        """What came of a request; its long fields are JSON already (``volume``)."""
        if isinstance(outcome.result, wire.Failure):
            return self._failed(asked, item, outcome, outcome.result)
        request, result, log = outcome.request, outcome.result, self._log
        prompt = wire.seen_text(request, result)
        spans = self._index.spans(prompt)
        places = message_spans(request, prompt)
        # One call with all fields: with a map of them made first it took three times as long.
        return records.Call(
            t=now(),
            run=log.run,
            producer=outcome.producer or log.driver,
            id=request.id,
            turn=log.turn,
            cell=asked.cell,
            call=asked.call,
            item=item,
            function=asked.function,
            attempt=result.attempt,
            prompt=text_json(prompt),
            response=result.text,
            finish_reason=result.finish_reason,
            usage=records.TokenUsage(
                result.prompt_tokens,
                result.completion_tokens,
                result.cached_tokens,
                *_details(outcome),
            ),
            sampling=asked.form.logged_sampling(asked.sampling, request.sampling),
            model=_model(outcome.card, self._model),
            messages=None if places or not request.messages else text_json(messages_of(request)),
            message_spans=places,
            prompt_token_ids=ids_json(result.prompt_token_ids),
            token_ids=ids_json(result.token_ids),
            logprobs=result.logprobs,
            spans=spans,
            context_sha256=self._context_sha256 if spans else "",
            queue_s=round(result.queue_s, 6),
            compute_s=round(result.compute_s, 6),
            total_s=round(outcome.total_s, 6),
            gpu_s=round(outcome.gpu_s, 6),
        )

    def _place(self, asked: Asked, item: int, request: wire.Request) -> dict[str, Any]:
        """Where a call was made. Answers, of which there are most, say it without a dict."""
        return {
            "id": request.id,
            "turn": self._log.turn,
            "cell": asked.cell,
            "call": asked.call,
            "item": item,
            "function": asked.function,
        }

    def _failed(
        self, asked: Asked, item: int, outcome: Outcome, failure: wire.Failure
    ) -> records.Call:
        request = outcome.request
        messages = messages_of(request)
        prompt = "\n".join(message["content"] for message in messages)
        return records.Call(
            **self._log.stamp(outcome.producer),
            **self._place(asked, item, request),
            attempt=failure.attempt,
            prompt=prompt,
            response=None,
            finish_reason=None,
            usage=records.TokenUsage(failure.prompt_tokens or 0, 0),
            sampling=asked.form.logged_sampling(asked.sampling, request.sampling),
            model=_model(outcome.card, self._model),
            message_spans=message_spans(request, prompt),
            error=records.CallFailure(outcome.lost or failure.kind, failure.detail),
            total_s=outcome.total_s,
            gpu_s=outcome.gpu_s,
        )

    def reused(
        self, asked: Asked, item: int, request: wire.Request, spare: records.Call
    ) -> records.Call:
        """An answer that an equal call had got: what it was sampled as is in that call's line."""
        return msgspec.structs.replace(
            spare,
            **self._log.stamp(spare.producer),
            **self._place(asked, item, request),
            source="reused",
            messages=None if spare.message_spans is not None else spare.messages,
            prompt_token_ids=None,
            token_ids=None,
            logprobs=None,
            queue_s=0.0,
            compute_s=0.0,
            total_s=0.0,
            gpu_s=0.0,
        )

    def cached(self, asked: Asked, item: int, request: wire.Request, known: Known) -> records.Call:
        """An answer that the cache knew, maybe from another run: no tokens, no ids."""
        spans = self._index.spans(known.prompt)
        places = message_spans(request, known.prompt)
        return records.Call(
            **self._log.stamp(),
            **self._place(asked, item, request),
            attempt=request.attempt,
            prompt=known.prompt,
            response=known.response,
            finish_reason=known.finish_reason,
            usage=records.TokenUsage(0, 0),
            sampling=asked.form.logged_sampling(asked.sampling, request.sampling),
            model=known.model,
            source="cached",
            messages=None if places or not request.messages else tuple(messages_of(request)),
            message_spans=places,
            spans=spans,
            context_sha256=self._context_sha256 if spans else "",
        )


def message_spans(request: wire.Request, prompt: str) -> tuple[records.MessageSpan, ...] | None:
    """Where the contents of what was asked stand in the prompt, in order, if they do as they are.

    A template changes little: so a line has its longest text once, not twice.
    """
    if request.messages is None:
        return None
    places, end = [], 0
    for message in request.messages:
        start = prompt.find(message.content, end)
        if start < 0:
            return None
        end = start + len(message.content)
        places.append(records.MessageSpan(message.role, start, end))
    return tuple(places)


def _details(outcome: Outcome) -> tuple[int, ...]:
    """Tokens that only some endpoints tell of: written to the cache, and of reasoning."""
    usage = outcome.usage
    return () if usage is None else (usage.cache_write_tokens, usage.reasoning_tokens)


@functools.lru_cache(maxsize=64)
def _model(card: wire.ModelCard | None, name: str) -> records.Model:
    if card is None:
        return records.Model(name)
    return records.Model(**msgspec.structs.asdict(card))
