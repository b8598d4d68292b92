"""The bare chain: what a round trip costs before anything is checked, limited or jailed.

::

    caller ─► event loop ─► socket thread ═ ZeroMQ ipc ═► keeper ═ socketpair ═► interpreter

The same processes as distill's, each in its fewest lines: MessagePack at both ends, the keeper
passes bytes on unread, the interpreter runs the cell. It shares no code with distill, has no
rules, no limits, no output, no deadlines and no jail.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any

import msgpack
import zmq
from sandbox_contestant import CELL_S, TRIVIAL, Contestant

HEADER_BYTES = 4


class Chain(Contestant):
    """The caller's end: an event loop, and a thread that owns the socket."""

    def open(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="chain-")
        endpoint = f"ipc://{self._folder.name}/chain.sock"
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.bind(endpoint)
        self._outbox: deque[list[bytes]] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._peer = b""
        self._replies: asyncio.Queue[Any] = asyncio.Queue()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        threading.Thread(target=self._own_socket, daemon=True).start()
        self._keeper = subprocess.Popen([sys.executable, __file__, "keeper", endpoint])
        self._wait(self._replies.get())  # the interpreter says that it is there

    def close(self) -> None:
        self._keeper.kill()
        self._keeper.wait()
        self._folder.cleanup()

    def cell(self, code: str, limit_s: float = CELL_S) -> str:  # noqa: ARG002  (it has none)
        return str(self._wait(self._ask({"code": code})))

    def calls(self, count: int) -> list[float]:
        seconds: list[float] = self._wait(self._ask({"calls": count}))
        return seconds

    def trips_in_loop(self, count: int) -> list[float]:
        """Seconds of each of ``count`` trivial cells, seen by a coroutine on the loop."""

        async def repeat() -> list[float]:
            seconds = []
            for _ in range(count):
                started = time.perf_counter()
                await self._ask({"code": TRIVIAL})
                seconds.append(time.perf_counter() - started)
            return seconds

        seconds: list[float] = self._wait(repeat())
        return seconds

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _ask(self, request: dict[str, Any]) -> Any:
        self._send(request)
        return await self._replies.get()

    def _send(self, message: dict[str, Any]) -> None:
        self._outbox.append([self._peer, msgpack.packb(message)])
        os.eventfd_write(self._wake_fd, 1)

    def _hear(self, data: bytes) -> None:
        """On the loop: the host's function is the identity."""
        message = msgpack.unpackb(data)
        if "argument" in message:
            self._send({"value": message["argument"]})
        else:
            self._replies.put_nowait(message["returned"])

    def _own_socket(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake_fd, zmq.POLLIN)
        poller.register(self._router, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._wake_fd in ready:
                os.eventfd_read(self._wake_fd)
                while self._outbox:
                    self._router.send_multipart(self._outbox.popleft())
            if self._router in ready:
                self._peer, data = self._router.recv_multipart()
                self._loop.call_soon_threadsafe(self._hear, data)


def keep(endpoint: str) -> None:
    """The keeper: bytes from the one side to the other, in one thread."""
    dealer = zmq.Context().socket(zmq.DEALER)
    dealer.connect(endpoint)
    ours, theirs = socket.socketpair()
    command = [sys.executable, __file__, "interpreter", str(theirs.fileno())]
    subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()
    poller = zmq.Poller()
    poller.register(dealer, zmq.POLLIN)
    poller.register(ours, zmq.POLLIN)
    while True:
        for end, _ in poller.poll():
            if end is dealer:
                message = dealer.recv()
                ours.sendall(len(message).to_bytes(HEADER_BYTES, "big") + message)
            else:
                dealer.send(_read(ours))


def _read(end: socket.socket) -> bytes:
    """One frame. The process ends with its peer."""
    header = end.recv(HEADER_BYTES)
    if not header:
        sys.exit()
    return end.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL)


def interpret(end: socket.socket) -> None:
    """The interpreter: runs what it hears, and says that it is done."""
    space: dict[str, Any] = {}

    def say(message: dict[str, Any]) -> None:
        data = msgpack.packb(message)
        end.sendall(len(data).to_bytes(HEADER_BYTES, "big") + data)

    def call() -> float:
        started = time.perf_counter()
        say({"argument": "x"})
        msgpack.unpackb(_read(end))
        return time.perf_counter() - started

    say({"returned": "ready"})
    while True:
        request = msgpack.unpackb(_read(end))
        if "code" in request:
            exec(compile(request["code"], "cell", "exec"), space)  # noqa: S102
            say({"returned": ""})
        else:
            say({"returned": [call() for _ in range(request["calls"])]})


if __name__ == "__main__":
    if sys.argv[1] == "keeper":
        keep(sys.argv[2])
    else:
        interpret(socket.socket(fileno=int(sys.argv[2])))
