"""The jail's socket: bytes to frames and back, never blocking, with bounded buffers."""

import socket
from collections.abc import Iterator

from distill.protocol.errors import RemoteProtocolError
from distill.protocol.jail_link import FRAME_LIMIT_BYTES, HEADER_BYTES

READ_BYTES = 256 << 10
UNREAD_LIMIT_BYTES = 2 * FRAME_LIMIT_BYTES
"""What may wait for a jail that does not read: two of the largest replies."""


class FrameSocket:
    """One end of the socketpair. Raises RemoteProtocolError when the jail breaks framing."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._received = bytearray()
        self._unsent = bytearray()
        self.ended = False
        self.received_bytes = 0

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._end.fileno()

    @property
    def wants_to_write(self) -> bool:
        """Whether bytes wait for the jail to read."""
        return bool(self._unsent)

    def read(self) -> Iterator[bytes]:
        """The bodies of the frames that one read completes; at the end, ``ended`` is set."""
        try:
            chunk = self._end.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self.ended = True
            return
        self._received += chunk
        self.received_bytes += len(chunk)
        start = 0
        while len(self._received) - start >= HEADER_BYTES:
            body = start + HEADER_BYTES
            size = int.from_bytes(self._received[start:body], "big")
            if size > FRAME_LIMIT_BYTES:
                raise RemoteProtocolError(
                    f"a frame of {size} bytes, the limit is {FRAME_LIMIT_BYTES}", peer="jail"
                )
            if len(self._received) < body + size:
                break
            yield bytes(self._received[body : body + size])
            start = body + size
        del self._received[:start]

    def write(self, body: bytes) -> None:
        """Send a frame, as much as the jail takes now, the rest as it reads."""
        self._unsent += len(body).to_bytes(HEADER_BYTES, "big") + body
        self.flush()
        if len(self._unsent) > UNREAD_LIMIT_BYTES:
            raise RemoteProtocolError(
                f"{len(self._unsent)} bytes of replies that it does not read", peer="jail"
            )

    def flush(self) -> None:
        """Send what waits."""
        while self._unsent:
            try:
                sent = self._end.send(memoryview(self._unsent)[:READ_BYTES])
            except BlockingIOError:
                return
            except OSError:
                self._unsent.clear()  # it is gone; its death is told by the launcher
                return
            del self._unsent[:sent]

    def close(self) -> None:
        """Close the descriptor."""
        self._end.close()
