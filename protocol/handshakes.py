"""What becomes of tcp connections, from what ZeroMQ's monitor tells.

ZeroMQ tells why a handshake failed just before it disconnects that peer, and names the descriptor
of a connection only when it begins and ends.
"""

import contextlib
import enum
import os
import socket
from dataclasses import dataclass, field
from typing import Literal


class Told(enum.IntFlag):
    """The monitor's events that matter here (``zmq.h``)."""

    ACCEPTED = 0x0020
    DISCONNECTED = 0x0200
    FAILED_NO_DETAIL = 0x0800
    SUCCEEDED = 0x1000
    FAILED_PROTOCOL = 0x2000
    FAILED_AUTH = 0x4000


NOT_ITS_KEY = 0x11000001
"""ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC, with FAILED_PROTOCOL: what was sent can't be opened."""

Change = Literal["joined", "lost", "refused"]
WHY_SERVER = {
    Told.FAILED_AUTH: "",  # the door has said it, with the key
    Told.FAILED_PROTOCOL: "speaks no CURVE",
    Told.FAILED_NO_DETAIL: "left in the handshake, or took too long over it",
}
WHY_CLIENT = {
    Told.FAILED_AUTH: "the engine does not let this key in",
    Told.FAILED_PROTOCOL: "what listens there is no engine: it speaks no CURVE",
    Told.FAILED_NO_DETAIL: "",  # it hung up: so it does on another's key, and when it dies
}


@dataclass(slots=True)
class Handshakes:
    """The connections of one socket. ``is_server``: it listens."""

    is_server: bool
    addresses: dict[int, str] = field(default_factory=dict)
    failed: str | None = None

    def note(self, told: int, value: int) -> tuple[Change, str] | None:
        """What an event means, and the details; None if nothing yet.

        ``joined``: the other end has proved its key. ``lost``: a connection has ended. ``refused``:
        it never came to be one, for want of a key.
        """
        match told:
            case Told.ACCEPTED:
                self.addresses[value] = _address_of(value)
            case Told.SUCCEEDED:
                return "joined", ""
            case Told.DISCONNECTED:
                return self._disconnected(value)
            case _:
                reasons = WHY_SERVER if self.is_server else WHY_CLIENT
                self.failed = reasons[Told(told)]
                if self.is_server and value == NOT_ITS_KEY:
                    self.failed = "does not know this engine's key: its key file is another's"
        return None

    def _disconnected(self, descriptor: int) -> tuple[Change, str]:
        address = self.addresses.pop(descriptor, "")
        why, self.failed = self.failed, None
        if not why:
            return "lost", address
        return "refused", f"{address or 'somebody'} {why}" if self.is_server else why


def _address_of(descriptor: int) -> str:
    """Who is at the other end, for the log; "" if it has gone already."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as copy:
        if copy.family in (socket.AF_INET, socket.AF_INET6):
            return str(copy.getpeername()[0])
    return ""
