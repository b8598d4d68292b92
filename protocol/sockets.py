"""The only module that touches ZeroMQ: one plain thread that owns every socket of a process.

::

    callers ── send() ──► outbox ──► thread: poll, send, drain ──► on_batch(list[Inbound])
                             ▲ wakes the poll through an eventfd

``on_batch`` is called in the thread, once for all that one poll found; it hands over to
whatever loop the process has and must not block. Sends never block: the bound is credit,
not a high-water mark (docs/protocol.md, "Back-pressure").
"""

import contextlib
import ipaddress
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import zmq

from distill.protocol.errors import LocalProtocolError

RECEIVE_QUEUE = 1000
"""Messages a peer may have waiting; a flood with no bound grew the driver to 1 GiB."""
LINGER_MS = 1000
DRAIN_PER_POLL = 256
"""Messages taken from one socket before the others get their turn."""
ZERO_COPY_BYTES = 65536
"""From this size on a payload is sent without a copy."""

Event = Literal["message", "unreachable", "malformed", "crashed"]


def _check_local(endpoint: str) -> None:
    """Raise LocalProtocolError for an endpoint beyond this machine, which would need CURVE."""
    transport, _, address = endpoint.partition("://")
    if transport in ("ipc", "inproc") and address:
        return
    host = address.rpartition(":")[0].strip("[]")
    if transport == "tcp" and _is_loopback(host):
        return
    raise LocalProtocolError(f"refusing {endpoint}: beyond this machine, and without CURVE")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class Inbound:
    """What a socket gave: a peer's payload, or that a peer was unreachable or broke framing.

    ``crashed``: the socket thread itself has failed; nothing comes or goes any more.
    """

    zone: str
    peer: bytes
    payload: bytes
    event: Event = "message"


class SocketThread:
    """Sockets by zone name, owned by one thread.

    ``bind`` and ``connect`` come before ``start``; ``send`` and ``close`` may be called from
    any thread. A ROUTER zone needs the peer's identity in ``send``, a DEALER zone ignores it.
    Large payloads are sent without a copy, for which pyzmq starts a thread and imports a module
    when the first comes; ``copies``: they are copied too.
    """

    def __init__(
        self, name: str, on_batch: Callable[[list[Inbound]], None], *, copies: bool = False
    ) -> None:
        self._copies = copies
        self._context = zmq.Context()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._on_batch = on_batch
        self._outbox: deque[tuple[str, bytes, bytes]] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def bind(self, zone: str, endpoint: str, *, limit_bytes: int) -> str:
        """Bind a ROUTER and return what was bound; ports are never guessed.

        Raises LocalProtocolError for an endpoint beyond this machine, OSError (zmq.ZMQError)
        where the address can't be had.
        """
        _check_local(endpoint)
        socket = self._open(zone, zmq.ROUTER, limit_bytes)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.bind(endpoint)
        return socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def connect(self, zone: str, endpoint: str, *, identity: bytes, limit_bytes: int) -> None:
        """Connect a DEALER under this identity."""
        _check_local(endpoint)
        socket = self._open(zone, zmq.DEALER, limit_bytes)
        socket.setsockopt(zmq.IDENTITY, identity)
        socket.connect(endpoint)

    def _open(self, zone: str, kind: int, limit_bytes: int) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE)
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, limit_bytes)
        self._sockets[zone] = socket
        return socket

    def start(self) -> None:
        """Start the thread; from here on only it touches the sockets."""
        self._thread.start()

    def send(self, zone: str, payload: bytes, *, peer: bytes = b"") -> None:
        """Queue one message. Never blocks; after ``close`` it does nothing."""
        with self._lock:
            if self._closing:
                return
            self._outbox.append((zone, peer, payload))
            if len(self._outbox) == 1:
                os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Send what is queued, close the sockets and end the thread."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            os.eventfd_write(self._wake_fd, 1)
        if self._thread.ident is None:
            self._close_sockets()
        elif threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake_fd, zmq.POLLIN)
        for socket in self._sockets.values():
            poller.register(socket, zmq.POLLIN)
        try:
            while not self._closing:
                ready = dict(poller.poll())
                batch = self._flush() if self._wake_fd in ready else []
                for zone, socket in self._sockets.items():
                    if socket in ready:
                        self._drain(zone, socket, batch)
                if batch:
                    self._on_batch(batch)
            self._flush()
        except Exception:
            # A process whose link is dead must not wait for its peers: it hears of it.
            with self._lock:
                self._closing = True
            self._on_batch([Inbound(zone, b"", b"", "crashed") for zone in self._sockets])
            raise
        finally:
            self._close_sockets()

    def _close_sockets(self) -> None:
        for socket in self._sockets.values():
            socket.close()
        self._context.term()
        os.close(self._wake_fd)

    def _flush(self) -> list[Inbound]:
        """Send all that is queued; what had no peer comes back as an event."""
        failed: list[Inbound] = []
        with self._lock:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
            queued = list(self._outbox)
            self._outbox.clear()
        for zone, peer, payload in queued:
            socket = self._sockets[zone]
            frames = [peer, payload] if socket.type == zmq.ROUTER else [payload]
            try:
                copy = self._copies or len(payload) < ZERO_COPY_BYTES
                socket.send_multipart(frames, zmq.NOBLOCK, copy=copy)
            except zmq.ZMQError as error:
                if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                    raise
                failed.append(Inbound(zone, peer, b"", "unreachable"))
        return failed

    def _drain(self, zone: str, socket: "zmq.Socket[bytes]", batch: list[Inbound]) -> None:
        for _ in range(DRAIN_PER_POLL):
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            peer = frames.pop(0) if socket.type == zmq.ROUTER else b""
            if len(frames) == 1:
                batch.append(Inbound(zone, peer, frames[0]))
            else:
                batch.append(Inbound(zone, peer, b"", "malformed"))
