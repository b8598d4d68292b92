"""The one connection to the driver: the conversation's rules, heartbeats, and batched results.

::

    sockets ── batch ──► event loop: decode, check ──► on_message
    heartbeat thread ──┐
    event loop ────────┴─► send: check, encode ──► sockets

Heartbeats have a thread of their own: the loop may be busy for a second and importing torch
for ten, and neither is a death.
"""

import asyncio
import threading
from collections.abc import Callable

from distill.protocol import PROTOCOL_VERSION
from distill.protocol.codec import WORKER_TO_DRIVER
from distill.protocol.conversation import Conversation
from distill.protocol.errors import ProtocolError
from distill.protocol.message import LogRecords, Welcome
from distill.protocol.sockets import ClientKeys, Inbound, Sockets
from distill.protocol.worker_link import (
    FRAME_LIMIT_BYTES,
    TRANSITIONS,
    FromWorker,
    Heartbeat,
    ToWorker,
    WorkerHello,
)

ZONE = "driver"


class Link:
    """Speaks worker_link to one driver, over one connection.

    ``on_message`` and ``on_fault`` run in the loop; so does ``on_change``, which hears what becomes
    of a connection with keys: joined, lost, refused.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[ToWorker], None],
        on_fault: Callable[[ProtocolError], None],
        heartbeat: Callable[[], Heartbeat],
        on_change: Callable[[Inbound], None],
    ) -> None:
        self._loop = loop
        self._on_change = on_change
        self._on_message = on_message
        self._on_fault = on_fault
        self._heartbeat = heartbeat
        self._conversation = Conversation(TRANSITIONS, peer="driver")
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._sockets = Sockets()

    def open(self, endpoint: str, hello: WorkerHello, keys: ClientKeys | None = None) -> None:
        """Connect and say Hello. Raises ProtocolError for an endpoint that is refused."""
        identity = hello.epoch.encode()
        self._sockets.connect(
            ZONE, endpoint, identity=identity, limit_bytes=FRAME_LIMIT_BYTES, keys=keys
        )
        self._sockets.listen(self._loop, self._on_batch)
        self.send(hello)

    def send(self, message: FromWorker) -> None:
        """Send one message; raises LocalProtocolError if it isn't legal now."""
        data = WORKER_TO_DRIVER.encode(message)
        with self._lock:  # what one thread checked, no other may overtake
            self._conversation.sent(message)
            self._sockets.send(ZONE, data)

    def allows(self, kind: type[FromWorker]) -> bool:
        """Whether a message of this kind is legal now."""
        return not self._closing.is_set() and self._conversation.allows(kind)

    def send_if_legal(self, message: FromWorker) -> bool:
        """As ``send``; False, and nothing sent, where it isn't legal now."""
        with self._lock:
            if not self._conversation.allows(type(message)):
                return False
            self.send(message)
            return True

    def event(self, event: str, **fields: object) -> None:
        """A structured lifecycle event for the driver's log."""
        self.send_if_legal(LogRecords(records=({"event": event, **fields},)))

    def abandon(self) -> None:
        """Close what is no connection any more: nothing is sent or heard."""
        self._closing.set()
        self._sockets.close(linger_ms=0)

    def close(self) -> None:
        """Send what is queued and close."""
        self._closing.set()
        self._sockets.close()

    def _on_batch(self, batch: list[Inbound]) -> None:
        for inbound in batch:
            if self._closing.is_set():
                return
            if inbound.event in ("joined", "lost", "refused"):
                self._on_change(inbound)
                continue
            try:
                message = WORKER_TO_DRIVER.decode(inbound.payload, peer="driver")
                with self._lock:
                    self._conversation.received(message)
            except ProtocolError as error:
                self._on_fault(error)
                continue
            if isinstance(message, Welcome) and message.protocol == PROTOCOL_VERSION:
                self._start_heartbeat(message.heartbeat_s)
            self._on_message(message)

    def _start_heartbeat(self, interval_s: float) -> None:
        threading.Thread(
            target=self._beat, args=(interval_s,), name="heartbeat", daemon=True
        ).start()

    def _beat(self, interval_s: float) -> None:
        while True:
            self.send_if_legal(self._heartbeat())
            if self._closing.wait(interval_s):
                return
