"""What distill adds to the OpenTelemetry SDK: ids that are given, and failures that are told once.

Imported where spans are sent, and only there: it needs the extra ``otlp``.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator

from distill.spans import SpanIds

LOG = logging.getLogger("distill")
NAMES_OF_THE_SDK = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
)
"""Loggers that tell every failure again and again."""
_SENDING = threading.local()
"""``by``: the exporter that this thread sends for; another's warnings are none of ours."""


class GivenIds(IdGenerator):
    """The ids of the next span, which its sender sets: a record has the same in every process, so
    that a parent may be sent after its children.
    """

    def __init__(self) -> None:
        self.next = SpanIds(1, 1)

    def generate_span_id(self) -> int:
        return self.next.span_id

    def generate_trace_id(self) -> int:
        return self.next.trace_id


class ToldExporter(SpanExporter):
    """Sends by another exporter, whose first failure is told, and no more of them."""

    def __init__(self, exporter: SpanExporter, shown: str) -> None:
        self._exporter = exporter
        self._shown = shown
        self._lock = threading.Lock()
        self._open = 0
        self._is_failing = False
        self._told: set[str] = set()

    def expect(self) -> None:
        """A span was queued."""
        with self._lock:
            self._open += 1

    @property
    def is_awaited(self) -> bool:
        """Whether spans are under way, and nothing says that they will not arrive."""
        return self._open > 0 and not self._is_failing

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send them, in the SDK's thread."""
        with self.quiet():
            result = self._exporter.export(spans)
        with self._lock:
            self._open -= len(spans)
        self._is_failing = result is not SpanExportResult.SUCCESS
        if self._is_failing:
            self._tell("lost", "spans are lost: %s does not take them", self._shown)
        return result

    def shutdown(self) -> None:
        """Give up what is under way."""
        with self.quiet():
            self._exporter.shutdown()

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """What the SDK logs in this thread goes to ``heard``."""
        _SENDING.by = self
        try:
            yield
        finally:
            _SENDING.by = None

    def heard(self, record: logging.LogRecord) -> None:
        """The SDK has something to say of this exporter."""
        if "dropping" in record.getMessage():  # one goes for each that comes
            with self._lock:
                self._open -= 1
            self._tell("slow", "spans are dropped: %s is too slow for them", self._shown)
            return
        self._is_failing = True
        self._tell("lost", "spans don't get to %s (%s); the run goes on", self._shown, _why(record))

    def _tell(self, what: str, message: str, *args: str) -> None:
        if what not in self._told:
            self._told.add(what)
            LOG.warning("distill: %s", message % args)


def _why(record: logging.LogRecord) -> str:
    """What is wrong, without the libraries that it went through."""
    errors = [arg for arg in record.args or () if isinstance(arg, BaseException)]
    if not errors:
        return record.getMessage()
    error = errors[0]
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error) or type(error).__name__


class _Ours(logging.Filter):
    """Takes what the SDK logs while it sends for us, and leaves the rest."""

    def filter(self, record: logging.LogRecord) -> bool:
        by = getattr(_SENDING, "by", None)
        if by is None:
            return True
        by.heard(record)
        return False


for _name in NAMES_OF_THE_SDK:
    logging.getLogger(_name).addFilter(_Ours())
