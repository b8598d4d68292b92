"""What workers said, and about which passage."""

from collections.abc import Sequence

import msgspec

from distill.traces import records


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What a worker said about the passage in its prompt."""

    response: str
    span: records.Span


def passage_of(spans: Sequence[records.Span]) -> records.Span:
    """The passage that a prompt's spans make up, where a few characters between them were
    rewritten (line breaks, labels); the longest span where they lie apart.
    """
    if len(spans) == 1:
        return spans[0]
    longest = max(spans, key=lambda span: span.end - span.start)
    near = [span for span in spans if span.part == longest.part]
    start, end = min(span.start for span in near), max(span.end for span in near)
    if end - start <= 2 * sum(span.end - span.start for span in near):
        return msgspec.structs.replace(longest, start=start, end=end)
    return longest
