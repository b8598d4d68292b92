"""The jail's end of the socket: many threads ask, whoever waits reads.

There is no reader thread. Of the threads that wait for something, one (the leader) reads the
socket and hands out what it gets; the others sleep on a lock. So a call from one thread costs
one write and one read, with no switch between threads in between.
"""

from __future__ import annotations

import _thread
import os
import select
from collections import deque

from distill.sandbox.jail import wire
from distill.sandbox.jail.confine import MEMORY_STATUS
from distill.sandbox.jail.interrupts import Shield

TYPE_CHECKING = False  # importing typing would double the time to start
if TYPE_CHECKING:
    from typing import Any

COMMAND = -1
"""The waiter's key for what is no reply: Init and RunCell. Calls count up from 1."""
READ_BYTES = 256 << 10


class ClosedError(Exception):
    """No cell is open: a call would have nobody to answer it."""


class Waiter:
    """One thread that waits for one message."""

    def __init__(self) -> None:
        self.message: wire.Wire | None = None
        self._asleep = _thread.allocate_lock()
        self._asleep.acquire()

    def wake(self) -> None:
        """Let it look again; called with the channel's mutex held."""
        if self._asleep.locked():
            self._asleep.release()

    def sleep(self) -> None:
        """Wait for ``wake``."""
        self._asleep.acquire()


class Channel:
    """Frames out, replies in. Every method may be called from any thread."""

    def __init__(self, fd: int, shield: Shield) -> None:
        self._fd = fd
        self._shield = shield
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._sending = _thread.allocate_lock()
        self._mutex = _thread.allocate_lock()
        self._waiters: dict[int, Waiter] = {}
        self._led = False
        self._commands: deque[wire.Wire] = deque()
        self._received = bytearray()
        self._last_call = 0
        self.takes_calls = False
        """Whether a cell is open."""

    def send(self, message: wire.Wire) -> None:
        """Send one message, whole. Raises ValueError if it is too large."""
        frame = wire.pack(message)
        with self._shield, self._sending:
            self._write(frame)

    def _write(self, frame: bytes) -> None:
        view = memoryview(frame)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            os._exit(0)  # the keeper is gone, and with it all reason to go on

    def ask(self, message: wire.Wire) -> wire.Wire:
        """Send a Call or Final under a fresh number and wait for its Reply.

        Raises ClosedError outside a cell.
        """
        number = 0
        with self._shield:
            try:
                # Numbered while sending: the keeper refuses a number that is below the last one.
                with self._sending:
                    if not self.takes_calls:
                        raise ClosedError
                    with self._mutex:
                        self._last_call += 1
                        number = self._last_call
                        waiter = self._waiters[number] = Waiter()
                    self._write(wire.pack({**message, "call": number}))
                return self._wait(waiter)
            finally:
                self._leave(number)

    def next_command(self) -> wire.Wire:
        """Wait for the next Init or RunCell."""
        with self._shield:
            with self._mutex:
                waiter = self._waiters[COMMAND] = Waiter()
                if self._commands:
                    waiter.message = self._commands.popleft()
            try:
                return self._wait(waiter)
            finally:
                self._leave(COMMAND)

    def refuse_calls(self) -> None:
        """No Call is sent after this: the keeper kills for one that follows Done."""
        with self._shield, self._sending:
            self.takes_calls = False

    def abandon_calls(self) -> None:
        """Tell the threads that still wait: the keeper answers no call of a cell that has ended."""
        error = {"name": "RuntimeError", "detail": "its cell ended before the answer came"}
        with self._shield, self._mutex:
            for number, waiter in self._waiters.items():
                if number != COMMAND and waiter.message is None:
                    waiter.message = {"type": "Reply", "error": error}
                    waiter.wake()

    def open_calls(self) -> int:
        """How many calls wait for their reply."""
        with self._shield, self._mutex:
            return sum(key != COMMAND for key in self._waiters)

    def _wait(self, waiter: Waiter) -> wire.Wire:
        while True:
            with self._mutex:
                if waiter.message is not None:
                    return waiter.message
                lead = not self._led
                self._led = True
            if lead:
                try:
                    self._read()
                finally:
                    with self._mutex:
                        self._led = False
            else:
                with self._shield.lowered:
                    waiter.sleep()

    def _leave(self, number: int) -> None:
        """Stop waiting, for whatever reason; somebody else must lead, if anybody waits."""
        with self._mutex:
            self._waiters.pop(number, None)
            if not self._led:
                for waiter in self._waiters.values():
                    if waiter.message is None:
                        waiter.wake()
                        return

    def _read(self) -> None:
        """As the leader: wait for bytes, and hand out the messages that are complete."""
        with self._shield.lowered:
            self._poll.poll()
        chunk = os.read(self._fd, READ_BYTES)
        if not chunk:
            os._exit(0)
        try:
            self._take(chunk)
        except MemoryError:
            os._exit(MEMORY_STATUS)  # half a frame is lost: nothing after it could be read

    def _take(self, chunk: bytes) -> None:
        self._received += chunk
        while (end := self._frame_end()) <= len(self._received):
            with memoryview(self._received) as view:
                message = wire.unpack(view[wire.HEADER_BYTES : end])
            del self._received[:end]
            self._hand_out(message)

    def _frame_end(self) -> int:
        if len(self._received) < wire.HEADER_BYTES:
            return wire.HEADER_BYTES
        return wire.HEADER_BYTES + int.from_bytes(self._received[: wire.HEADER_BYTES], "big")

    def _hand_out(self, message: wire.Wire) -> None:
        key: Any = message["call"] if message["type"] == "Reply" else COMMAND
        with self._mutex:
            waiter = self._waiters.get(key)
            if waiter is not None and waiter.message is None:
                waiter.message = message
                waiter.wake()
            elif key == COMMAND:
                self._commands.append(message)
            # A reply that nobody waits for any more (its call was interrupted) is dropped.
