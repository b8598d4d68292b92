"""Spans to an OpenTelemetry collector: OTLP over HTTP, by the SDK, from a thread of its own.

Whoever has a span to send hands it over and goes on: a queue of bounded length takes it, and drops
the oldest where the collector is too slow. Nothing here ends or delays a run.
"""

import atexit
import functools
import importlib.util
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from distill.endpoint import address_of
from distill.errors import InputError
from distill.spans import Span, SpanIds
from distill.version import __version__

LOG = logging.getLogger("distill")
PATH = "/v1/traces"
"""Where a collector takes spans (OTLP/HTTP)."""
QUEUE_SPANS = 2048
BATCH_SPANS = 256
"""With texts a span may have some 20 kB, and a collector takes requests of some MB."""
EVERY_MS = 200.0
LAST_SPANS_S = 2.0
"""A process that ends waits so long for a collector that answers."""


@dataclass(frozen=True, slots=True)
class Collector:
    """Where spans go. ``shown`` has no password; ``content``: with the texts of the run."""

    url: str
    shown: str
    content: bool

    def sender(self) -> "Sender":
        """One a collector and process, started when it is first asked for."""
        return _sender(self.url, self.shown)


def collector(endpoint: str | None, *, content: bool = False) -> Collector | None:
    """The collector at an address, None without one. Raises InputError: it is none, or the
    packages of the extra ``otlp`` are not there.
    """
    if endpoint is None:
        if content:
            raise InputError("--otlp-content needs --otlp URL")
        return None
    shown = address_of(endpoint, "--otlp").where
    parts = urlsplit(endpoint)
    if not parts.path.endswith(PATH):
        parts = parts._replace(path=parts.path.rstrip("/") + PATH)
    try:
        found = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise InputError(
            "otlp needs the OpenTelemetry SDK, which is not installed here: bin/distill-up --otlp "
            f"installs it; elsewhere: {sys.executable} -m pip install 'distill[otlp]'"
        )
    return Collector(urlunsplit(parts), shown, content)


@functools.cache
def _sender(url: str, shown: str) -> "Sender":
    return Sender(url, shown)


class Sender:
    """Hands spans to the SDK. May be called in any thread."""

    def __init__(self, url: str, shown: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        from opentelemetry.semconv.schemas import Schemas

        from distill.otlp_sdk import GivenIds, ToldExporter

        self._lock = threading.Lock()
        self._ids = GivenIds()
        self._exporter = ToldExporter(OTLPSpanExporter(endpoint=url), shown)
        service = os.environ.get("OTEL_SERVICE_NAME") or "distill"
        provider = TracerProvider(
            resource=Resource.create({"service.name": service, "service.version": __version__}),
            id_generator=self._ids,
            sampler=ALWAYS_ON,
            shutdown_on_exit=False,
        )
        provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=QUEUE_SPANS,
                max_export_batch_size=BATCH_SPANS,
                schedule_delay_millis=EVERY_MS,
            )
        )
        self._tracer = provider.get_tracer("distill", __version__, schema_url=Schemas.V1_44_0.value)
        atexit.register(self.close)

    def send(self, spans: Sequence[Span]) -> None:
        """Queue them; never waits."""
        with self._lock, self._exporter.quiet():
            for span in spans:
                self._send(span)

    def _send(self, span: Span) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context

        context = Context()
        if span.ids.parent_id:
            parent = _place(span.ids._replace(span_id=span.ids.parent_id))
            context = trace.set_span_in_context(trace.NonRecordingSpan(parent), context)
        self._ids.next = span.ids
        made = self._tracer.start_span(
            span.name,
            context,
            trace.SpanKind.CLIENT if span.is_client else trace.SpanKind.INTERNAL,
            {name: value for name, value in span.attributes.items() if value is not None},
            [trace.Link(_place(span.link))] if span.link is not None else [],
            start_time=round(span.start_s * 1e9),
        )
        if span.error is not None:
            made.set_status(trace.Status(trace.StatusCode.ERROR, span.error or None))
        if made.is_recording():
            self._exporter.expect()
        made.end(round(max(span.start_s, span.end_s) * 1e9))

    def close(self) -> None:
        """The process ends: the last spans have a moment, if there is somebody who takes them."""
        due_s = time.monotonic() + LAST_SPANS_S
        while self._exporter.is_awaited and time.monotonic() < due_s:
            time.sleep(0.02)
        self._exporter.shutdown()
        atexit.unregister(self.close)


def _place(ids: SpanIds) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    sampled = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(ids.trace_id, ids.span_id, is_remote=False, trace_flags=sampled)
