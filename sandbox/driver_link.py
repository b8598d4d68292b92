"""The keeper's link to the driver: what of it is polled, and the conversation's rules."""

import os

from distill.protocol import PROTOCOL_VERSION
from distill.protocol.codec import KEEPER_TO_DRIVER
from distill.protocol.conversation import Conversation
from distill.protocol.errors import RemoteProtocolError
from distill.protocol.message import LogRecords, Welcome
from distill.protocol.sandbox_link import (
    FRAME_LIMIT_BYTES,
    TRANSITIONS,
    FromKeeper,
    JailPlan,
    KeeperHello,
    NoJail,
    ToKeeper,
)
from distill.protocol.sockets import Sockets

ZONE = "driver"


class DriverLink:
    """Messages to and from the driver, held against the table of the conversation."""

    def __init__(self, endpoint: str, keeper: str) -> None:
        self._keeper = keeper
        self._conversation = Conversation(TRANSITIONS, peer="driver")
        self._sockets = Sockets(copies=True)
        self._sockets.connect(
            ZONE, endpoint, identity=keeper.encode(), limit_bytes=FRAME_LIMIT_BYTES
        )

    def filenos(self) -> tuple[int, ...]:
        """The descriptors to poll."""
        return self._sockets.filenos()

    @property
    def state(self) -> str:
        """Where the conversation stands."""
        return self._conversation.state

    def read(self, fd: int) -> list[ToKeeper]:
        """What has arrived. Raises RemoteProtocolError if the driver broke a rule."""
        found: list[ToKeeper] = []
        for inbound in self._sockets.read(fd):
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
        """Send what is queued and close."""
        self._sockets.close()
