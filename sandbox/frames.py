"""The jail's socket: bytes to frames and back, never blocking, with bounded buffers."""

import socket
from collections import deque
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
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self.ended = False
        """Nothing more is read: the jail has closed its end, or is not listened to any more."""
        self.received_bytes = 0

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._end.fileno()

    @property
    def wants_to_write(self) -> bool:
        """Whether bytes wait for the jail to read."""
        return bool(self._unsent)

    def read(self) -> Iterator[bytes | bytearray]:
        """The bodies of the frames that one read completes; at the end, ``ended`` is set."""
        self._received += self._receive()
        start = 0
        while (body := start + HEADER_BYTES) <= len(self._received):
            size = self._size(start, body)
            if body + size > len(self._received):
                break
            if size > READ_BYTES:
                # It came in several reads, so it is the first here, and little follows it.
                yield self._take_first(body + size)
            else:
                start = body + size
                yield bytes(self._received[body:start])
        del self._received[:start]

    def _take_first(self, end: int) -> bytearray:
        """The body of a large frame without a copy of it."""
        rest = self._received[end:]
        del self._received[end:]
        del self._received[:HEADER_BYTES]
        body, self._received = self._received, rest
        return body

    def _receive(self) -> bytes:
        if self.ended:
            return b""
        try:
            chunk = self._end.recv(READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            chunk = b""
        self.ended = not chunk
        self.received_bytes += len(chunk)
        return chunk

    def _size(self, start: int, end: int) -> int:
        size = int.from_bytes(self._received[start:end], "big")
        if size > FRAME_LIMIT_BYTES:
            raise RemoteProtocolError(
                f"a frame of {size} bytes, the limit is {FRAME_LIMIT_BYTES}", peer="jail"
            )
        return size

    def write(self, body: bytes) -> None:
        """Send a frame, as much as the jail takes now, the rest as it reads."""
        frame = len(body).to_bytes(HEADER_BYTES, "big") + body
        self._unsent.append(memoryview(frame))
        self._unsent_bytes += len(frame)
        self.flush()
        if self._unsent_bytes > UNREAD_LIMIT_BYTES:
            raise RemoteProtocolError(
                f"{self._unsent_bytes} bytes of replies that it does not read", peer="jail"
            )

    def flush(self) -> None:
        """Send what waits."""
        while self._unsent:
            try:
                sent = self._end.send(self._unsent[0])
            except BlockingIOError:
                return
            except OSError:
                self._forget_unsent()  # it is gone; its death is told by the launcher
                return
            self._unsent_bytes -= sent
            if sent == len(self._unsent[0]):
                self._unsent.popleft()
            else:
                self._unsent[0] = self._unsent[0][sent:]

    def _forget_unsent(self) -> None:
        self._unsent.clear()
        self._unsent_bytes = 0

    def abandon(self) -> None:
        """Neither hear nor tell it anything more: it is condemned, and may take time to die."""
        self.ended = True
        self._received.clear()
        self._forget_unsent()

    def close(self) -> None:
        """Close the descriptor."""
        self._end.close()
