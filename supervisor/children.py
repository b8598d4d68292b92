"""The driver's end of the launcher: start children, hear of their deaths, survive its own.

If the launcher dies, the driver kills the groups that it was told of and removes the run
directory itself; children also die with the launcher (PDEATHSIG).
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from distill.protocol.codec import DRIVER_TO_LAUNCHER
from distill.protocol.launcher_link import (
    PACKET_LIMIT_BYTES,
    Exited,
    FromLauncher,
    Started,
    ToLauncher,
)

KEY_MARKS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
MINIMAL_NAMES = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
MINIMAL_PREFIXES = ("LC_", "PYTHON", "XDG_")
CLOSE_S = 4.0

OnEvent = Callable[[FromLauncher], None]


def scrubbed_environment() -> dict[str, str]:
    """This process's environment without anything that looks like a key."""
    return {
        name: value
        for name, value in os.environ.items()
        if not any(mark in name.upper() for mark in KEY_MARKS)
    }


def minimal_environment() -> dict[str, str]:
    """The few variables that a keeper needs: what is not named here does not reach it."""
    return {
        name: value
        for name, value in scrubbed_environment().items()
        if name in MINIMAL_NAMES or name.startswith(MINIMAL_PREFIXES)
    }


def last_words(path: Path) -> str:
    """The last lines of a child's output, for a message about its death."""
    try:
        text = path.read_bytes()[-1500:].decode("utf-8", "replace")
    except OSError:
        return ""
    return "Its last output:\n" + text if text.strip() else ""


class Children:
    """The launcher process and what it started; lives on the driver's event loop.

    ``on_event`` hears Started, NotStarted and Exited of every child; ``on_lost`` that the
    launcher itself has died.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        run_directory: Path,
        on_event: OnEvent,
        on_lost: Callable[[], None],
    ) -> None:
        self._run_directory = run_directory
        self._on_event = on_event
        self._on_lost = on_lost
        self._groups: dict[str, int] = {}
        self._loop = loop
        self._queue: deque[tuple[bytes, int | None]] = deque()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pipe = ours
        self._pipe.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "distill.supervisor.launcher"),
                    *("--pipe-fd", str(theirs.fileno())),
                    *("--driver-pid", str(os.getpid())),
                    *("--run-directory", str(run_directory)),
                ],
                pass_fds=[theirs.fileno()],
                env=minimal_environment(),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def launcher_pid(self) -> int:
        """The launcher's pid."""
        return self._process.pid

    def listen(self) -> None:
        """Start to hear the launcher; called on the event loop."""
        self._loop.add_reader(self._pipe, self._read)

    def send(self, message: ToLauncher, attached: int | None = None) -> None:
        """Ask the launcher; called on the event loop. A dead launcher ignores it.

        ``attached`` is a descriptor that goes along; it may be closed as soon as this returns.
        """
        if self._pipe.fileno() < 0:
            return
        copy = None if attached is None else os.dup(attached)
        self._queue.append((DRIVER_TO_LAUNCHER.encode(message), copy))
        self._write()

    def _write(self) -> None:
        """Send what is queued; a full socket is tried again when it has room."""
        try:
            while self._queue:
                packet, attached = self._queue[0]
                socket.send_fds(self._pipe, [packet], [] if attached is None else [attached])
                self._dequeue()
        except BlockingIOError:
            self._loop.add_writer(self._pipe, self._write)
            return
        except OSError:
            self._drop_queue()
        self._loop.remove_writer(self._pipe)

    def _dequeue(self) -> None:
        _, attached = self._queue.popleft()
        if attached is not None:
            os.close(attached)

    def _drop_queue(self) -> None:
        while self._queue:
            self._dequeue()

    def _read(self) -> None:
        try:
            packet = self._pipe.recv(PACKET_LIMIT_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._lost()
            return
        message = DRIVER_TO_LAUNCHER.decode(packet, peer="launcher")
        if isinstance(message, Started):
            self._groups[message.child] = message.pid
        elif isinstance(message, Exited):
            self._groups.pop(message.child, None)
        self._on_event(message)

    def _lost(self) -> None:
        self._loop.remove_reader(self._pipe)
        self._clean_up()
        self._on_lost()

    def _clean_up(self) -> None:
        self._drop_queue()
        for group in self._groups.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        self._groups.clear()
        shutil.rmtree(self._run_directory, ignore_errors=True)

    def close(self) -> None:
        """End the launcher, and so everything it started; called off the event loop."""
        if not self._loop.is_closed() and self._pipe.fileno() >= 0:
            self._loop.call_soon_threadsafe(self._loop.remove_reader, self._pipe.fileno())
        with contextlib.suppress(OSError):
            self._pipe.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._pipe.close()
        self._clean_up()
