"""The only module that touches ZeroMQ: every socket of a process, polled by its own loop.

::

    callers ── send() ──► socket, under the lock
    loop: a descriptor is readable ──► read() ──► list[Inbound]

No thread stands between: to wake one would cost each message a switch, and the loop would have
to be woken all the same. A caller in another thread may send; ZeroMQ allows a socket to change
hands where a lock stands between. Sends never block: the bound is credit, not a high-water mark
(docs/protocol.md, "Back-pressure").
"""

import asyncio
import contextlib
import ipaddress
import os
import re
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import zmq

from distill.protocol.errors import LocalProtocolError

RECEIVE_QUEUE = 1000
"""Messages a peer may have waiting; a flood with no bound grew the driver to 1 GiB."""
LINGER_MS = 1000
CLOSE_S = 5.0
"""How long a loop that is busy may keep ``close`` waiting."""
DRAIN_PER_POLL = 256
"""Messages taken from one socket before the others get their turn."""
MET_LIMIT = 10_000
"""Peers, of which one may make any number."""
PEER_CREDENTIALS = re.compile(r"localhost:\d+:\d+:(\d+)")
"""libzmq's address of an ipc peer: uid, gid and pid as SO_PEERCRED has them."""
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

    ``crashed``: ZeroMQ itself has failed; nothing comes or goes any more. ``pid`` comes with the
    first message of a peer over ipc: its process, by the kernel's word; 0 where it has none.
    """

    zone: str
    peer: bytes
    payload: bytes
    event: Event = "message"
    pid: int = 0


@dataclass(slots=True)
class _End:
    """One socket. ``names_peers``: a ROUTER, whose messages begin with the peer's identity."""

    zone: str
    socket: "zmq.Socket[bytes]"
    names_peers: bool
    fd: int
    """ZeroMQ's own: readable when the socket *may* have changed, so one looks and drains."""
    met: set[bytes] = field(default_factory=set)
    """Peers whose pid was told."""


def _first(end: _End, peer: bytes) -> tuple[bytes, int]:
    """The first payload of a peer, and the process that has connected."""
    if len(end.met) >= MET_LIMIT:
        end.met.clear()  # some are told once more
    end.met.add(peer)
    frame = end.socket.recv(zmq.NOBLOCK, copy=False)
    known = PEER_CREDENTIALS.fullmatch(str(frame.get("Peer-Address")))
    return frame.bytes, int(known[1]) if known else 0


class Sockets:
    """Sockets by zone name, for one loop.

    ``bind`` and ``connect`` come first. Then either ``listen`` joins an asyncio loop, or a loop of
    another kind polls ``filenos`` and calls ``read``, or a program without one calls ``poll``.
    ``send`` and ``close`` may be called from any thread. A ROUTER zone needs the peer's identity
    in ``send``, a DEALER zone ignores it. Large payloads are sent without a copy, for which pyzmq
    starts a thread and imports a module when the first comes; ``copies``: they are copied too.
    """

    def __init__(self, *, copies: bool = False) -> None:
        self._copies = copies
        self._context = zmq.Context()
        self._ends: dict[str, _End] = {}
        self._failed: deque[Inbound] = deque()
        self._broken: zmq.ZMQError | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        self._lock = threading.Lock()
        """Whoever touches a socket holds it."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0

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

    def send(self, zone: str, payload: bytes, *, peer: bytes = b"") -> None:
        """Send one message. Never blocks; after ``close`` it does nothing.

        A peer that is not there is an event, to be read.
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

    # -- receiving

    def filenos(self) -> tuple[int, ...]:
        """The descriptors to poll; ``read`` the one that is readable."""
        return (self._wake_fd, *(end.fd for end in self._ends.values()))

    def read(self, fd: int) -> list[Inbound]:
        """What has arrived behind this descriptor, DRAIN_PER_POLL messages a socket at most.

        Raises OSError (zmq.ZMQError) when ZeroMQ has failed.
        """
        batch: list[Inbound] = []
        woken = fd == self._wake_fd
        if woken:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(fd)
            if self._broken is not None:
                raise self._broken
            while self._failed:
                batch.append(self._failed.popleft())
        with self._lock:
            for end in self._ends.values() if not self._closing else ():
                if (woken or end.fd == fd) and not self._drain(end, batch):
                    os.eventfd_write(self._wake_fd, 1)
        return batch

    def _drain(self, end: _End, batch: list[Inbound]) -> bool:
        """Take what has arrived, DRAIN_PER_POLL at most; whether that was all."""
        for _ in range(DRAIN_PER_POLL):
            # Asked first: the exception that says so would cost more than the message.
            if not int(end.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                return True
            peer = end.socket.recv(zmq.NOBLOCK) if end.names_peers else b""
            pid = 0
            if peer in end.met or not end.names_peers:
                payload = end.socket.recv(zmq.NOBLOCK)
            else:
                payload, pid = _first(end, peer)
            if not end.socket.getsockopt(zmq.RCVMORE):
                batch.append(Inbound(end.zone, peer, payload, pid=pid))
                continue
            while end.socket.getsockopt(zmq.RCVMORE):
                end.socket.recv(zmq.NOBLOCK)
            batch.append(Inbound(end.zone, peer, b"", "malformed"))
        return False

    def poll(self, timeout_s: float) -> list[Inbound]:
        """Wait for what comes next; nothing when the time is up."""
        poll = select.poll()
        for fd in self.filenos():
            poll.register(fd, select.POLLIN)
        due_s = time.monotonic() + timeout_s
        batch: list[Inbound] = []
        while not batch and (left_s := due_s - time.monotonic()) > 0:
            for fd, _ in poll.poll(left_s * 1000):
                batch += self.read(fd)
        return batch

    def listen(
        self, loop: asyncio.AbstractEventLoop, on_batch: Callable[[list[Inbound]], None]
    ) -> None:
        """From now on ``on_batch`` is called on ``loop`` with what has arrived. Called on it."""

        def on_readable(fd: int) -> None:
            try:
                batch = self.read(fd)
            except zmq.ZMQError:
                # A process whose link is dead must not wait for its peers: it hears of it.
                self._leave_loop()
                batch = [Inbound(zone, b"", b"", "crashed") for zone in self._ends]
            if batch:
                on_batch(batch)

        with self._lock:
            if self._closing:
                return
            self._loop, self._loop_thread = loop, threading.get_ident()
            for fd in self.filenos():
                loop.add_reader(fd, on_readable, fd)
            os.eventfd_write(self._wake_fd, 1)  # what came before is there to be read

    def _leave_loop(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            for fd in self.filenos():
                loop.remove_reader(fd)

    # -- ending

    def close(self) -> None:
        """Send what is queued and close the sockets."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        # A loop that still watched a closed descriptor would mistake the next of its number.
        if self._loop_thread == threading.get_ident():
            self._leave_loop()
        elif (loop := self._loop) is not None and loop.is_running():
            left = threading.Event()
            loop.call_soon_threadsafe(self._leave_loop)
            loop.call_soon_threadsafe(left.set)
            left.wait(CLOSE_S)
        with self._lock:
            for end in self._ends.values():
                end.socket.close()
        self._context.term()
        os.close(self._wake_fd)
