"""The keeper's end of its pair with the launcher: jails' sockets in, signals out."""

import contextlib
import socket

from distill.protocol.codec import KEEPER_TO_LAUNCHER
from distill.protocol.launcher_link import PACKET_LIMIT_BYTES
from distill.protocol.sandbox_link import (
    JailExited,
    JailRefused,
    JailSocket,
    LauncherToKeeper,
    SignalJail,
)

FlowIn = tuple[JailSocket, socket.socket] | tuple[JailExited | JailRefused, None]


class Control:
    """One packet a message; a jail's socket rides on its JailSocket."""

    def __init__(self, fd: int) -> None:
        self._end = socket.socket(fileno=fd)
        self._end.setblocking(False)
        self._end.set_inheritable(False)
        self.ended = False

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._end.fileno()

    def read(self) -> list[FlowIn]:
        """All that has arrived; ``ended`` is set when the launcher is gone."""
        found: list[FlowIn] = []
        while True:
            try:
                packet, fds, _, _ = socket.recv_fds(self._end, PACKET_LIMIT_BYTES, 1)
            except BlockingIOError:
                return found
            except OSError:
                packet, fds = b"", []
            if not packet:
                self.ended = True
                return found
            message: LauncherToKeeper = KEEPER_TO_LAUNCHER.decode(packet, peer="launcher")
            if isinstance(message, JailSocket):
                found.append((message, socket.socket(fileno=fds[0])))
            else:
                found.append((message, None))

    def signal(self, message: SignalJail) -> None:
        """Ask for a signal; a launcher that is gone has killed the jail already."""
        with contextlib.suppress(OSError):
            self._end.send(KEEPER_TO_LAUNCHER.encode(message))
