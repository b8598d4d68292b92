"""An HTTP client whose replies end: within a total time, and a size, whatever the endpoint does."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from distill.caller import is_gone

if TYPE_CHECKING:
    import httpx2

BODY_LIMIT_BYTES = 64 << 20
"""The longest reply, unpacked, that is read of an endpoint."""
ENCODINGS = frozenset(("", "identity", "gzip", "deflate"))
"""One layer of packing at most: each multiplies what a chunk can become by a thousand."""
WRITE_BYTES = 16 << 10
STALLED = "its stream stopped"
STREAM = "text/event-stream"
LAST_S = 1.0
LISTENER: ContextVar[Callable[[bytes], bool] | None] = ContextVar("distill_listener", default=None)
"""Gets the bytes of a reply that is streamed, as they come, and says whether that is all of it.

Set for one request by its caller.
"""


def bound(client: Any, refusal: type[Exception], stall_s: float = math.inf) -> "httpx2.Client":
    """Bound a client of httpx2, proxies included; too much is a ``refusal``, not tried again.

    A reply that is streamed may be silent for ``stall_s``.

    Each transport is wrapped where it lies: one given to the client would lose the proxies.
    """
    transport = client._transport  # noqa: SLF001  (see above)
    client._transport = _BoundedTransport(transport, refusal, stall_s)  # noqa: SLF001
    mounts = client._mounts  # noqa: SLF001
    for pattern, proxy in mounts.items():
        mounts[pattern] = proxy and _BoundedTransport(proxy, refusal, stall_s)
    bounded: httpx2.Client = client
    return bounded


class _BoundedTransport:
    """A transport of httpx2 that reads each reply whole, within a total time and size.

    httpx2's own timeouts are for one read each, so an endpoint that drips holds it for ever.
    """

    def __init__(self, transport: Any, refusal: type[Exception], stall_s: float) -> None:
        self._refusal = refusal
        self._stall_s = stall_s
        pool = transport._pool  # noqa: SLF001  (httpx2 has no way to give it a network)
        self._clock = threading.local()
        pool._network_backend = _TimedNetwork(pool._network_backend, self._clock)  # noqa: SLF001
        self._transport = transport

    def handle_request(self, request: "httpx2.Request") -> "httpx2.Response":
        """Ask and read all of the reply. A redirect keeps the first request's deadline."""
        limit_s = request.extensions.get("timeout", {}).get("read")
        now = time.monotonic()
        end = request.extensions.setdefault("distill_end", now + (limit_s or math.inf))
        self._clock.end = end
        try:
            response = self._transport.handle_request(request)
            try:
                return _read_whole(response, self._chunks(response), self._refusal)
            finally:
                response.close()
        finally:
            del self._clock.end
            self._clock.silence_s = math.inf

    def _chunks(self, response: "httpx2.Response") -> Iterator[bytes]:
        """The body as it comes. A stream that stalls ends with a timeout.

        So does one that nobody waits for: what the rest would cost is saved.
        """
        if not response.headers.get("content-type", "").startswith(STREAM):
            yield from response.iter_bytes()
            return
        import httpx2

        listener, has_ended = LISTENER.get(), False
        self._clock.silence_s = self._stall_s
        try:
            for chunk in response.iter_bytes():
                yield chunk
                has_ended = has_ended or (listener is not None and listener(chunk))
                # Some leave the connection open after the last word; it is not waited for.
                self._clock.silence_s = LAST_S if has_ended else self._stall_s
                if is_gone():
                    raise self._refusal("nobody waits for the answer any more")
        except httpx2.TransportError as error:
            if has_ended:
                return
            if isinstance(error, httpx2.ReadTimeout) and time.monotonic() < self._clock.end:
                told = f"{STALLED}: no byte for {self._stall_s:g} s"
                raise httpx2.ReadTimeout(told) from error
            raise

    def close(self) -> None:
        self._transport.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # as openai's own client does
            self.close()


def _read_whole(
    response: "httpx2.Response", chunks: Iterator[bytes], refusal: type[Exception]
) -> "httpx2.Response":
    """The reply with its body read and unpacked; raises a ``refusal`` where it is too much."""
    import httpx2

    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ENCODINGS:
        raise refusal(f"its reply is packed as {encoding[:80]}, which was not asked for")
    too_long = refusal(f"its reply is longer than {BODY_LIMIT_BYTES >> 20} MiB; it was not read")
    length = response.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > BODY_LIMIT_BYTES):
        raise too_long
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > BODY_LIMIT_BYTES:
            raise too_long
    done = ("content-encoding", "content-length", "transfer-encoding")
    headers = [pair for pair in response.headers.multi_items() if pair[0].lower() not in done]
    return httpx2.Response(
        response.status_code, headers=headers, content=bytes(body), extensions=response.extensions
    )


class _TimedNetwork:
    """A network of httpcore2 whose every wait ends at the end of the thread's request."""

    def __init__(self, network: Any, clock: threading.local) -> None:
        self._network = network
        self._clock = clock

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **kw: Any
    ) -> "_TimedStream":
        left_s = _left_s(self._clock, timeout)
        stream = self._network.connect_tcp(host, port, timeout=left_s, **kw)
        return _TimedStream(stream, self._clock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


class _TimedStream:
    """A connection of _TimedNetwork; the next request on it brings its own end."""

    def __init__(self, stream: Any, clock: threading.local) -> None:
        self._stream = stream
        self._clock = clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes = self._stream.read(max_bytes, _left_s(self._clock, timeout))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """In pieces: the stream's own loop would start the time anew after each send."""
        for start in range(0, len(buffer), WRITE_BYTES):
            piece = buffer[start : start + WRITE_BYTES]
            self._stream.write(piece, _left_s(self._clock, timeout))

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> "_TimedStream":
        left_s = _left_s(self._clock, timeout)
        return _TimedStream(
            self._stream.start_tls(ssl_context, server_hostname, left_s), self._clock
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _left_s(clock: threading.local, timeout_s: float | None) -> float | None:
    """How long the thread's request may still wait. Raises httpx2's timeout when it is over."""
    left_s: float = getattr(clock, "end", math.inf) - time.monotonic()
    if left_s <= 0:
        import httpx2

        raise httpx2.ReadTimeout("the request's time is over")
    silence_s: float = getattr(clock, "silence_s", math.inf)
    limit_s = min(left_s, silence_s, math.inf if timeout_s is None else timeout_s)
    return None if limit_s == math.inf else limit_s
