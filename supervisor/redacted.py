"""Records without what is to be blotted out, as they are written.

What a record tells by structure stays: ids, hashes, kinds, counts, times. Texts keep their length,
so spans and messages that are places in a prompt stay true; a span whose two ends would differ
(a match begins in the instruction and ends in the passage) is dropped. Token ids and
log-probabilities, which tell all of a text, are dropped in all records, and so are the hashes of
arguments: who has one of a telephone number can try them all.

What the jail has cut, only half of a match may be left of: the short repr of a long value is
blotted out, and the end of output that was too much.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from distill.redaction import MASK, Redaction, edge
from distill.supervisor.volume import text_json
from distill.traces import records

KEPT = frozenset(
    "v t run producer parent id key sha256 file context_sha256 usage supervisor_usage worker_usage "
    "tree versions redacted event kind status source role reason finish_reason ended_by "
    "message_spans spans prompt_token_ids token_ids logprobs weights_hash tokenizer_hash "
    "template_hash adapter_hash dtype engine engine_version logprobs_mode".split()
)
"""Fields that are no text of anybody's, or are seen to apart."""
COUNTED = frozenset(("options", "detail", "sampling"))
"""Fields whose numbers are settings and counts."""
REPR_CHARS, NAME_CHARS = 120, 200
"""The jail cuts a variable's short repr, its name and its type's name to these."""
END_CHARS = 4
"""A shorter end of a stream is looked for nowhere else: it may be part of any word."""
AnyStruct = TypeVar("AnyStruct", bound=msgspec.Struct)
Parts = Mapping[str | None, tuple[str | None, str]]
"""The texts of a context by their part: the part and the text as they are stored."""


class RunRedactor:
    """Of one run, record after record. ``parts`` are of its context, once that is stored."""

    def __init__(self, redaction: Redaction) -> None:
        self.redaction = redaction
        self.parts: Parts = {}
        self._ends: list[str] = []
        """Of streams that the jail has cut, as the messages that show them have them."""

    def context(self, context: Any) -> Any:
        """The run's context as it is to be stored; from now on spans are held against it.

        In a thread: 10 MB with half a million matches take some seconds.
        """
        redacted = self.redaction.value(context, most=None)
        self.parts = dict(_pairs(context, redacted))
        return redacted

    def forget(self) -> None:
        """Let go of the text: the run has ended."""
        self.parts = {}

    def record(self, record: records.AnyRecord) -> records.AnyRecord:
        """The record as it is to be written."""
        if isinstance(record, records.Call):
            return self._call(record)
        if isinstance(record, records.Cell):
            return self._cell(record)
        if isinstance(record, records.Message):
            return self._message(record)
        if isinstance(record, records.Turn):
            return without(self.redaction, _without_ids(record))
        if isinstance(record, records.Primitive | records.Batch):
            return without(self.redaction, msgspec.structs.replace(record, key=""))
        if isinstance(record, records.RunStart) and record.parent is not None:
            parent = msgspec.structs.replace(record.parent, key="")
            return without(self.redaction, msgspec.structs.replace(record, parent=parent))
        return without(self.redaction, record)

    def _call(self, call: records.Call) -> records.Call:
        plain = msgspec.structs.replace(_without_ids(call), prompt="")
        prompt, spans = self._prompt(self.redaction.text(_plain(call.prompt)), call.spans)
        return msgspec.structs.replace(
            without(self.redaction, plain),
            prompt=text_json(prompt),
            spans=spans,
            context_sha256=call.context_sha256 if spans else "",
        )

    def _cell(self, cell: records.Cell) -> records.Cell:
        """The cell without what it has of values and of output that were cut."""
        told = without(self.redaction, cell)
        changed: dict[str, Any] = {"variables": tuple(map(_uncut, told.variables))}
        if cell.dropped_bytes or cell.lost is not None:
            for name in ("stdout", "stderr"):
                text, size = getattr(cell, name), edge(getattr(cell, name))
                end = text[len(text) - size :].strip()
                if len(end) >= END_CHARS:
                    self._ends.append(end)
                changed[name] = getattr(told, name)[: len(text) - size] + MASK * size
        return msgspec.structs.replace(told, **changed)

    def _message(self, message: records.Message) -> records.Message:
        """The message without the ends of streams that were cut, wherever it shows them."""
        content = message.content
        told = self.redaction.text(content)
        for end in self._ends:
            pieces: list[str] = []
            done = 0
            for match in re.finditer(f"(?={re.escape(end)})", content):
                first, after = max(done, match.start()), match.start() + len(end)
                pieces += (told[done:first], MASK * (after - first))
                done = after
            told = "".join((*pieces, told[done:]))
        return msgspec.structs.replace(message, content=told)

    def _prompt(
        self, prompt: str, spans: Iterable[records.Span]
    ) -> tuple[str, tuple[records.Span, ...]]:
        """The prompt with what is blotted out of the context, too, and the spans that are true.

        A passage may begin or end within a match, which only the whole text shows.
        """
        kept = []
        for span in spans:
            part, text = self.parts.get(span.part, (span.part, ""))
            stored = text[span.start : span.end]
            start, end = span.prompt_start, span.prompt_start + span.end - span.start
            if MASK in stored:
                both = zip(prompt[start:end], stored, strict=True)
                told = "".join(MASK if other == MASK else here for here, other in both)
                prompt = prompt[:start] + told + prompt[end:]
            if prompt[start:end] == stored:
                kept.append(msgspec.structs.replace(span, part=part))
        return prompt, tuple(kept)


def _uncut(variable: records.Variable) -> records.Variable:
    """The variable without the text of a value that is more than was shown of it, and without a
    name that was cut.
    """
    limits = {"name": NAME_CHARS, "type": NAME_CHARS, "repr": REPR_CHARS}
    cut = {name for name, limit in limits.items() if len(getattr(variable, name)) >= limit}
    masked = {name: MASK * limits[name] for name in cut}
    return msgspec.structs.replace(variable, **masked) if masked else variable


def without(redaction: Redaction, record: AnyStruct) -> AnyStruct:
    """A record with every text in it redacted; the same object where nothing is."""
    changed = {}
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if name in KEPT or value is None or isinstance(value, bool):
            continue
        if isinstance(value, int | float) and name not in ("value", "answer"):
            continue
        redacted = _value(redaction, value, is_counted=name in COUNTED)
        if redacted is not value:
            changed[name] = redacted
    return msgspec.structs.replace(record, **changed) if changed else record


def _value(redaction: Redaction, value: Any, *, is_counted: bool) -> Any:
    if isinstance(value, msgspec.Struct):
        return without(redaction, value)
    if isinstance(value, msgspec.Raw):
        plain = _plain(value)
        redacted = redaction.value(plain)
        return value if redacted is plain else text_json(redacted)
    if isinstance(value, tuple) and value and isinstance(value[0], msgspec.Struct):
        parts = tuple(without(redaction, each) for each in value)
        return value if all(a is b for a, b in zip(parts, value, strict=True)) else parts
    return redaction.value(value, numbers=not is_counted)


def _pairs(context: Any, redacted: Any) -> Iterator[tuple[str | None, tuple[str | None, str]]]:
    """Each text of a context (``journal.texts_of``) with its part and itself as they are stored."""
    if isinstance(context, str):
        yield None, (None, redacted)
        return
    keyed = isinstance(context, dict)
    before = context.items() if keyed else enumerate(context)
    after = redacted.items() if keyed else enumerate(redacted)
    for (key, value), (new_key, new_value) in zip(before, after, strict=True):
        if isinstance(value, str):
            yield str(key), (str(new_key), new_value)
        elif isinstance(value, list | dict):
            for part, (new_part, text) in _pairs(value, new_value):
                yield f"{key}/{part}", (f"{new_key}/{new_part}", text)


def _plain(value: Any) -> Any:
    """What a field holds, which may be JSON already."""
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value


def _without_ids(record: AnyStruct) -> AnyStruct:
    return msgspec.structs.replace(record, prompt_token_ids=None, token_ids=None, logprobs=None)
