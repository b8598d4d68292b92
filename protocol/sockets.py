"""The only module that touches ZeroMQ: every socket of a process, polled by its own loop.

::

    callers ── send() ──► socket, under the lock
    loop: a descriptor is readable ──► read() ──► list[Inbound]

No thread stands between: to wake one would cost each message a switch, and the loop would have
to be woken all the same. A caller in another thread may send; ZeroMQ allows a socket to change
hands where a lock stands between. Sends never block: the bound is credit, not a high-water mark
(docs/protocol.md, "Back-pressure").
"""

import contextlib
import os
import re
import select
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import zmq
from zmq.utils import z85

from distill.protocol import endpoints, zap
from distill.protocol.handshakes import Handshakes, Told

if TYPE_CHECKING:
    import asyncio  # a keeper has no such loop: 4 MB less of each

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

HEARTBEAT_MS = 2000
"""Between the ends of a tcp connection, by ZeroMQ itself."""
SILENCE_LIMIT_MS = 6000
"""A tcp connection whose other end is silent this long is given up."""
HANDSHAKE_LIMIT_MS = 10_000
"""Who has not proved a key by then is disconnected."""
DIAL_LIMIT_MS = 5000
"""A network that swallows what is sent is dialled anew after this."""

MONITOR_FRAME = struct.Struct("=hi")
"""An event and its value, as libzmq's monitor sends them."""

Event = Literal["message", "unreachable", "malformed", "crashed", "joined", "lost", "refused"]


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """A listening end: its secret, and who may come in."""

    secret: bytes = field(repr=False)
    allows: zap.Allows


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """A dialling end: its secret, and the public key of whom it expects there."""

    server_public: bytes
    secret: bytes = field(repr=False)


def public_key(secret: bytes) -> bytes:
    """The public key of a secret one (Curve25519, 32 bytes each)."""
    return z85.decode(zmq.curve_public(z85.encode(secret)))


@dataclass(frozen=True, slots=True)
class Inbound:
    """What a socket gave: a peer's payload, or that a peer was unreachable or broke framing.

    ``crashed``: ZeroMQ itself has failed; nothing comes or goes any more. Of a zone with keys also:
    ``joined`` (the other end has proved its key), ``lost`` (a connection has ended) and ``refused``
    (somebody without the right key), with what is known of it in ``detail``. ``pid`` comes with the
    first message of a peer over ipc: its process, by the kernel's word; 0 where it has none.
    """

    zone: str
    peer: bytes
    payload: bytes
    event: Event = "message"
    detail: str = ""
    pid: int = 0


@dataclass(slots=True)
class _End:
    """One ZeroMQ socket; ``fd`` is readable when it *may* have changed, so one looks and drains."""

    zone: str
    socket: "zmq.Socket[bytes]"
    fd: int = field(init=False)

    def __post_init__(self) -> None:
        self.fd = int(self.socket.getsockopt(zmq.FD))

    def take(self) -> Inbound | None:
        """Take one message that is there; None if it is nobody's business."""
        raise NotImplementedError


@dataclass(slots=True)
class _Peers(_End):
    """The socket of a zone. ``names_peers``: a ROUTER, whose messages begin with the identity."""

    names_peers: bool
    met: set[bytes] = field(default_factory=set)
    """Peers whose pid was told."""

    def take(self) -> Inbound | None:
        peer = self.socket.recv(zmq.NOBLOCK) if self.names_peers else b""
        pid = 0
        if peer in self.met or not self.names_peers:
            payload = self.socket.recv(zmq.NOBLOCK)
        else:
            payload, pid = self._first(peer)
        if not self.socket.getsockopt(zmq.RCVMORE):
            return Inbound(self.zone, peer, payload, pid=pid)
        while self.socket.getsockopt(zmq.RCVMORE):
            self.socket.recv(zmq.NOBLOCK)
        return Inbound(self.zone, peer, b"", "malformed")

    def _first(self, peer: bytes) -> tuple[bytes, int]:
        """The first payload of a peer, and the process that has connected."""
        if len(self.met) >= MET_LIMIT:
            self.met.clear()  # some are told once more
        self.met.add(peer)
        frame = self.socket.recv(zmq.NOBLOCK, copy=False)
        known = PEER_CREDENTIALS.fullmatch(str(frame.get("Peer-Address")))
        return frame.bytes, int(known[1]) if known else 0


@dataclass(slots=True)
class _Door(_End):
    """Where ZeroMQ asks who may come in (``distill.protocol.zap``)."""

    allows: zap.Allows

    def take(self) -> Inbound | None:
        verdict = zap.judge(self.socket.recv_multipart(zmq.NOBLOCK), self.allows)
        self.socket.send_multipart(verdict.reply, zmq.NOBLOCK)
        if not verdict.stranger:
            return None
        return Inbound(self.zone, b"", b"", "refused", verdict.stranger)


@dataclass(slots=True)
class _Watch(_End):
    """What becomes of a zone's connections (``distill.protocol.handshakes``)."""

    handshakes: Handshakes

    def take(self) -> Inbound | None:
        told, value = MONITOR_FRAME.unpack(self.socket.recv_multipart(zmq.NOBLOCK)[0])
        change = self.handshakes.note(told, value)
        return Inbound(self.zone, b"", b"", *change) if change is not None else None


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
        self._peers: dict[str, _Peers] = {}
        self._ends: list[_End] = []
        """Those of the zones, and what stands beside those that have keys."""
        self._failed: deque[Inbound] = deque()
        self._broken: zmq.ZMQError | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        self._lock = threading.Lock()
        """Whoever touches a socket holds it."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0

    def bind(
        self, zone: str, endpoint: str, *, limit_bytes: int, keys: ServerKeys | None = None
    ) -> str:
        """Bind a ROUTER and return what was bound; ports are never guessed.

        Raises LocalProtocolError for an endpoint that needs keys, OSError where the address can't
        be had.
        """
        endpoints.check_keys(endpoint, has_keys=keys is not None)
        socket = self._open(zone, zmq.ROUTER, limit_bytes)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if keys is not None:
            endpoint = endpoints.to_bind(endpoint)
            self._guard(zone, socket, keys)
            self._keep_alive(zone, socket, endpoint)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0)) from error
        return socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def connect(
        self,
        zone: str,
        endpoint: str,
        *,
        identity: bytes,
        limit_bytes: int,
        keys: ClientKeys | None = None,
    ) -> None:
        """Connect a DEALER under this identity.

        Raises LocalProtocolError for an address that needs keys, or that is none.
        """
        endpoints.check_keys(endpoint, has_keys=keys is not None)
        socket = self._open(zone, zmq.DEALER, limit_bytes)
        socket.setsockopt(zmq.IDENTITY, identity)
        if keys is not None:
            endpoint = endpoints.to_connect(endpoint)
            socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server_public)
            socket.setsockopt(zmq.CURVE_PUBLICKEY, public_key(keys.secret))
            socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
            socket.setsockopt(zmq.CONNECT_TIMEOUT, DIAL_LIMIT_MS)
            self._keep_alive(zone, socket, endpoint)
        socket.connect(endpoint)

    def _open(self, zone: str, kind: int, limit_bytes: int) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE)
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, limit_bytes)
        peers = self._peers[zone] = _Peers(zone, socket, kind == zmq.ROUTER)
        self._ends.append(peers)
        return socket

    def _guard(self, zone: str, socket: "zmq.Socket[bytes]", keys: ServerKeys) -> None:
        """Let nobody in but those whose key is allowed. One zone of these sockets at most."""
        door = self._context.socket(zmq.REP)
        door.setsockopt(zmq.LINGER, 0)
        door.bind(zap.ENDPOINT)
        self._ends.append(_Door(zone, door, keys.allows))
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, zap.DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # with nobody at the door nobody comes in
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_LIMIT_MS)

    def _keep_alive(self, zone: str, socket: "zmq.Socket[bytes]", endpoint: str) -> None:
        """Notice what the network does not tell, and hear of connections."""
        socket.setsockopt(zmq.IPV6, endpoints.is_ipv6(endpoint))
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_LIMIT_MS)
        address = f"inproc://{zone}/connections"
        socket.monitor(address, sum(Told))
        watch = self._context.socket(zmq.PAIR)
        watch.setsockopt(zmq.LINGER, 0)
        watch.setsockopt(zmq.RCVHWM, 0)  # a full one would stop ZeroMQ's thread
        watch.connect(address)
        handshakes = Handshakes(is_server=self._peers[zone].names_peers)
        self._ends.append(_Watch(zone, watch, handshakes))
        os.eventfd_write(self._wake_fd, 1)  # its descriptor is silent until it was looked at once

    def send(self, zone: str, payload: bytes, *, peer: bytes = b"") -> None:
        """Send one message. Never blocks; after ``close`` it does nothing.

        A peer that is not there is an event, to be read.
        """
        with self._lock:
            if self._closing:
                return
            end = self._peers[zone]
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
        return (self._wake_fd, *(end.fd for end in self._ends))

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
            for end in self._ends if not self._closing else ():
                if (woken or end.fd == fd) and not self._drain(end, batch):
                    os.eventfd_write(self._wake_fd, 1)
        return batch

    def _drain(self, end: _End, batch: list[Inbound]) -> bool:
        """Take what has arrived, DRAIN_PER_POLL at most; whether that was all."""
        for _ in range(DRAIN_PER_POLL):
            # Asked first: the exception that says so would cost more than the message.
            if not int(end.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                return True
            if (inbound := end.take()) is not None:
                batch.append(inbound)
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
        self, loop: "asyncio.AbstractEventLoop", on_batch: Callable[[list[Inbound]], None]
    ) -> None:
        """From now on ``on_batch`` is called on ``loop`` with what has arrived. Called on it."""

        def on_readable(fd: int) -> None:
            try:
                batch = self.read(fd)
            except zmq.ZMQError:
                # A process whose link is dead must not wait for its peers: it hears of it.
                self._leave_loop()
                batch = [Inbound(zone, b"", b"", "crashed") for zone in self._peers]
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

    def close(self, *, linger_ms: int = LINGER_MS) -> None:
        """Send what is queued, if that can be done within ``linger_ms``, and close the sockets."""
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
            for peers in self._peers.values():
                peers.socket.disable_monitor()  # it must not tell those that close after it
                peers.socket.setsockopt(zmq.LINGER, linger_ms)
            for end in self._ends:
                end.socket.close()
        self._context.term()
        os.close(self._wake_fd)
