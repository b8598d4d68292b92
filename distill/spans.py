"""Spans as OpenTelemetry has them, without its SDK."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class SpanIds(NamedTuple):
    """A span's place: 128 and 64 bits; ``parent_id`` 0: it is the first of its trace."""

    trace_id: int
    span_id: int
    parent_id: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """Something that has ended. Times are seconds since 1970; ``error``: it failed, maybe why.

    ``is_client``: it was asked of another process. ``link`` is a span of another trace.
    """

    name: str
    ids: SpanIds
    start_s: float
    end_s: float
    attributes: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    is_client: bool = False
    link: SpanIds | None = None
