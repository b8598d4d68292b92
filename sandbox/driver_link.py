"""The keeper's link to the driver: the socket thread, a queue, and a descriptor to poll."""

import contextlib
import os
import signal
from collections import deque

from distill.protocol import PROTOCOL_VERSION
from distill.protocol.codec import DRIVER_TO_KEEPER, KEEPER_TO_DRIVER
from distill.protocol.conversation import Conversation
from distill.protocol.errors import RemoteProtocolError
from distill.protocol.message import LogRecords, Shutdown, Welcome
from distill.protocol.sandbox_link import (
    FRAME_LIMIT_BYTES,
    TRANSITIONS,
    FromKeeper,
    JailPlan,
    KeeperHello,
    NoJail,
    ToKeeper,
)
from distill.protocol.sockets import Inbound, SocketThread

ZONE = "driver"
SHUTDOWN = DRIVER_TO_KEEPER.encode(Shutdown())
SHUTDOWN_S = 1.5
"""From the arrival of Shutdown to the end, which is then SIGALRM's if need be."""


class DriverLink:
    """Messages to and from the driver, held against the table of the conversation."""

    def __init__(self, endpoint: str, keeper: str) -> None:
        self._keeper = keeper
        self._inbox: deque[Inbound] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._conversation = Conversation(TRANSITIONS, peer="driver")
        self._sockets = SocketThread("keeper-sockets", self._on_batch, copies=True)
        self._sockets.connect(
            ZONE, endpoint, identity=keeper.encode(), limit_bytes=FRAME_LIMIT_BYTES
        )
        self._sockets.start()

    def _on_batch(self, batch: list[Inbound]) -> None:
        """In the socket thread: queue, and wake the loop once.

        Shutdown is obeyed from here on, whatever the loop is busy with for the jail.
        """
        if any(inbound.payload == SHUTDOWN for inbound in batch):
            signal.setitimer(signal.ITIMER_REAL, SHUTDOWN_S)
        self._inbox.extend(batch)
        os.eventfd_write(self._wake_fd, 1)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._wake_fd

    @property
    def state(self) -> str:
        """Where the conversation stands."""
        return self._conversation.state

    def read(self) -> list[ToKeeper]:
        """What has arrived. Raises RemoteProtocolError if the driver broke a rule."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)
        found: list[ToKeeper] = []
        while self._inbox:
            inbound = self._inbox.popleft()
            if inbound.event == "crashed":
                raise RemoteProtocolError("the link has failed", peer="driver")
            if inbound.event == "malformed":
                raise RemoteProtocolError("a message of several parts", peer="driver")
            if inbound.event == "message":
                found.append(KEEPER_TO_DRIVER.decode(inbound.payload, peer="driver"))
        return found

    def accept(self, message: ToKeeper) -> None:
        """Note that ``message`` is acted on now. Raises RemoteProtocolError if it may not be."""
        self._conversation.received(message)
        if isinstance(message, Welcome) and message.protocol != PROTOCOL_VERSION:
            raise RemoteProtocolError(f"protocol {message.protocol}", peer="driver")

    def hello(self, found: JailPlan | NoJail) -> None:
        """Say who this is, and how a jail is started here or why it can't be."""
        self.send(
            KeeperHello(
                protocol=PROTOCOL_VERSION,
                keeper=self._keeper,
                epoch=os.urandom(8).hex(),
                pid=os.getpid(),
                plan=found if isinstance(found, JailPlan) else None,
                refusal=found if isinstance(found, NoJail) else None,
            )
        )

    def send(self, message: FromKeeper) -> None:
        """Queue a message. Raises LocalProtocolError for one that may not be sent now."""
        data = KEEPER_TO_DRIVER.encode(message)
        self._conversation.sent(message)
        self._sockets.send(ZONE, data)

    def log(self, event: str, **fields: str | float | None) -> None:
        """Ship one structured event to the driver, which writes it."""
        record = {"event": event, "producer": "keeper", "keeper": self._keeper, **fields}
        self.send(LogRecords((record,)))

    def close(self) -> None:
        """Send what is queued and end the thread."""
        self._sockets.close()
