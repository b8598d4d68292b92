"""OpenTelemetry collectors: real OTLP over HTTP, read with the proto package of OpenTelemetry."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Received:
    """A span as it came: ids in hex, attributes as Python has them."""

    def __init__(self, span: Any, resource: dict[str, Any]) -> None:
        self.name: str = span.name
        self.trace, self.id, self.parent = (
            each.hex() for each in (span.trace_id, span.span_id, span.parent_span_id)
        )
        self.kind: int = span.kind
        self.start_s, self.end_s = span.start_time_unix_nano / 1e9, span.end_time_unix_nano / 1e9
        self.attributes = attributes_of(span)
        self.is_error = span.status.code == 2
        self.why: str = span.status.message
        self.links = [(link.trace_id.hex(), link.span_id.hex()) for link in span.links]
        self.resource = resource


def attributes_of(told: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in told.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)


class Spans:
    """A collector; ``behave(number)`` says what becomes of the request of that number.

    It gives an HTTP status, and may take its time.
    """

    def __init__(self, behave: Callable[[int], int]) -> None:
        self.behave = behave
        self.requests = 0
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        self.keys: list[str] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                """Say nothing."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with collector._lock:
                    collector.requests += 1
                    number = collector.requests
                    collector.paths.append(self.path)
                    collector.keys.append(self.headers.get("Authorization", ""))
                status = collector.behave(number)
                if status == 200:
                    collector.bodies.append(body)
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/x-protobuf")
                    self.end_headers()
                    self.wfile.write(ExportTraceServiceResponse().SerializeToString())
                except OSError:
                    self.close_connection = True

        return Handler

    def spans(self) -> list[Received]:
        """What has come so far."""
        found = []
        for body in list(self.bodies):
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = attributes_of(group.resource)
                for scope in group.scope_spans:
                    found += [Received(span, resource) for span in scope.spans]
        return found

    def until(self, name: str, count: int = 1, limit_s: float = 20.0) -> list[Received]:
        """All that has come once there are so many spans of this name."""
        due_s = time.monotonic() + limit_s
        while True:
            found = self.spans()
            if sum(span.name == name for span in found) >= count:
                return found
            assert time.monotonic() < due_s, [span.name for span in found]
            time.sleep(0.02)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def collecting(behave: Callable[[int], int] = lambda _number: 200) -> Iterator[Spans]:
    """A collector while it lasts."""
    server = Spans(behave)
    try:
        yield server
    finally:
        server.close()
