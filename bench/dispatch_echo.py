"""Bare pyzmq: a ROUTER that packs and unpacks, and a DEALER that sends back what comes.

``python dispatch_echo.py ENDPOINT`` is the peer.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile

import msgpack
import zmq
from dispatch_contestant import Asking, die_with_parent
from dispatch_prompts import IN_FLIGHT

PEER = b"peer"


class Contestant(Asking):
    """Nothing but two sockets; ``size`` prompts a message."""

    def __init__(self, size: str = "1") -> None:
        self._size = int(size)
        self._in_flight = max(2, IN_FLIGHT // self._size)
        self._folder = tempfile.mkdtemp(prefix="dispatch-")
        endpoint = f"ipc://{self._folder}/echo.sock"
        self._socket = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.bind(endpoint)
        self._process = subprocess.Popen([sys.executable, __file__, endpoint])
        self.peer = self._process.pid
        self._socket.recv_multipart()
        self._came: dict[int, str] = {}

    def prepare(self, asked: list[str]) -> None:  # noqa: ARG002
        """Forget the last block."""
        self._came = {}

    def ask(self, asked: list[str]) -> None:
        """Pack, send, receive, unpack."""
        socket, size = self._socket, self._size
        sent = received = 0
        while received < len(asked):
            while sent < len(asked) and sent - received < self._in_flight * size:
                message = [
                    {"id": sent + i, "prompt": prompt}
                    for i, prompt in enumerate(asked[sent : sent + size])
                ]
                socket.send_multipart((PEER, msgpack.packb(message)))
                sent += len(message)
            _, payload = socket.recv_multipart()
            for item in msgpack.unpackb(payload):
                self._came[item["id"]] = item["prompt"]
                received += 1

    def check(self, asked: list[str]) -> None:
        """All came back."""
        assert [self._came[number] for number in range(len(asked))] == asked

    def close(self) -> None:
        """Kill the peer."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder)


def echo(endpoint: str) -> None:
    """Send back whatever comes, until killed."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, PEER)
    socket.connect(endpoint)
    socket.send(b"ready")
    while True:
        socket.send(socket.recv())


if __name__ == "__main__":
    die_with_parent()
    echo(sys.argv[1])
