"""The only module that touches ZeroMQ: every socket of a process, and the thread that listens.

::

    callers ── send() ──► socket, under the lock
    thread: poll, drain under the lock ──► on_batch(list[Inbound])

A caller sends by itself: to wake the thread for it would cost each message a switch of threads.
ZeroMQ allows a socket to change hands where a lock stands between. ``on_batch`` is called in the
thread, once for all that one poll found; it hands over to whatever loop the process has and must
not block. Sends never block: the bound is credit, not a high-water mark (docs/protocol.md,
"Back-pressure").
"""

import contextlib
import ipaddress
import os
import select
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


@dataclass(slots=True)
class _End:
    """One socket. ``names_peers``: a ROUTER, whose messages begin with the peer's identity."""

    zone: str
    socket: "zmq.Socket[bytes]"
    names_peers: bool
    fd: int
    """ZeroMQ's own: readable when the socket *may* have changed, so one looks and drains."""


class SocketThread:
    """Sockets by zone name, and one thread that receives for all.

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
        self._ends: dict[str, _End] = {}
        self._on_batch = on_batch
        self._failed: deque[Inbound] = deque()
        self._broken: zmq.ZMQError | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        self._lock = threading.Lock()
        """Whoever touches a socket holds it; never while ``on_batch`` runs."""
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
        fd = int(socket.getsockopt(zmq.FD))
        self._ends[zone] = _End(zone, socket, kind == zmq.ROUTER, fd)
        return socket

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def send(self, zone: str, payload: bytes, *, peer: bytes = b"") -> None:
        """Send one message. Never blocks; after ``close`` it does nothing.

        A peer that is not there is an event for ``on_batch``.
        """
        with self._lock:
            if self._closing:
                return
            end = self._ends[zone]
            try:
                if end.names_peers:
                    end.socket.send(peer, zmq.NOBLOCK | zmq.SNDMORE)
                copy = self._copies or len(payload) < ZERO_COPY_BYTES
                end.socket.send(payload, zmq.NOBLOCK, copy=copy)
            except zmq.ZMQError as error:
                if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                    self._failed.append(Inbound(zone, peer, b"", "unreachable"))
                else:
                    self._broken = error
            else:
                # Sending takes note of what has arrived, and the descriptor says so only once.
                if not int(end.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                    return
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
        poll = select.poll()
        for fd in (self._wake_fd, *(end.fd for end in self._ends.values())):
            poll.register(fd, select.POLLIN)
        try:
            ready = {self._wake_fd}
            while not self._closing:
                batch, left = self._gather(ready)
                if batch:
                    self._on_batch(batch)
                ready = left or {fd for fd, _ in poll.poll()}
        except Exception:
            # A process whose link is dead must not wait for its peers: it hears of it.
            with self._lock:
                self._closing = True
            self._on_batch([Inbound(zone, b"", b"", "crashed") for zone in self._ends])
            raise
        finally:
            self._close_sockets()

    def _close_sockets(self) -> None:
        with self._lock:
            for end in self._ends.values():
                end.socket.close()
        self._context.term()
        os.close(self._wake_fd)

    def _gather(self, ready: set[int]) -> tuple[list[Inbound], set[int]]:
        """What the ready sockets have, and those that have more; all, if the thread was woken."""
        batch: list[Inbound] = []
        woken = self._wake_fd in ready
        if woken:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
            if self._broken is not None:
                raise self._broken
            while self._failed:
                batch.append(self._failed.popleft())
        left = {
            end.fd
            for end in self._ends.values()
            if (woken or end.fd in ready) and not self._drain(end, batch)
        }
        return batch, left

    def _drain(self, end: _End, batch: list[Inbound]) -> bool:
        """Take what has arrived, DRAIN_PER_POLL at most; whether that was all."""
        for _ in range(DRAIN_PER_POLL):
            try:
                with self._lock:
                    frames = end.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return True
            peer = frames.pop(0) if end.names_peers else b""
            if len(frames) == 1:
                batch.append(Inbound(end.zone, peer, frames[0]))
            else:
                batch.append(Inbound(end.zone, peer, b"", "malformed"))
        return False
