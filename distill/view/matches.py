"""What of the text was read for certain, and which answers stand in the final one: as matches."""

import dataclasses
from collections.abc import Iterable
from typing import Any, cast

import msgspec

from distill.traces import coverage, flow, records
from distill.view.facts import RunFacts
from distill.view.texts import ContextTexts


class Answered(msgspec.Struct):
    """Of a call's line, what its way to the answer is found by."""

    id: str
    cell: int
    call: int
    response: str | None


_ANSWERED = msgspec.json.Decoder(Answered)


def matches(
    run: RunFacts, texts: ContextTexts, lines: Iterable[bytes], count: int
) -> dict[str, Any]:
    """Intervals ``[part, start, end]`` that were read, here or maybe elsewhere; and the rows of the
    calls whose answers were printed, and stand in the final answer. ``lines`` are
    those of the first ``count`` calls; one that can't be read (the file was replaced) says nothing.
    """
    found = _coverage(run, texts, count)
    read, ambiguous = (
        [(part, *each) for part, text in enumerate(found.parts) for each in getattr(text, kind)]
        for kind in ("read", "ambiguous")
    )
    printed, in_answer = _flow(run, lines)
    return {
        "read": read,
        "ambiguous": ambiguous,
        "share": found.share,
        "read_chars": found.read_chars,
        "ambiguous_chars": found.ambiguous_chars,
        "coverage_method": coverage.METHOD,
        "printed": printed,
        "in_answer": in_answer,
        "flow_method": flow.METHOD,
    }


def _coverage(run: RunFacts, texts: ContextTexts, count: int) -> coverage.Coverage:
    calls = run.calls
    failed = {row for row in range(count) if calls.is_failed(row)}
    names = calls.parts.all()
    spans = (
        records.Span(start, end, 0, names[part] if names[part] or texts.context_is_parts else None)
        for row, part, start, end in zip(*calls.spans.values(), strict=False)
        if row < count and row not in failed
    )
    return coverage.of(texts.context, spans)


def _flow(run: RunFacts, lines: Iterable[bytes]) -> tuple[list[int], list[int]]:
    """The rows of answers that were printed, and of those that are in the final answer."""
    answered, rows = [], {}
    for row, line in enumerate(lines):
        try:
            each = _ANSWERED.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        answered.append(each)
        rows[each.id] = row
    told = dataclasses.replace(run.told, calls=cast("list[records.Call]", answered))
    found = flow.of(told)
    return (
        [rows[each.call] for each in found if each.printed],
        [rows[each.call] for each in found if each.in_answer],
    )
