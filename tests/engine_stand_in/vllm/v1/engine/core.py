"""A process in EngineCore's place: it holds nothing, but it can be killed, and must not outlive.

::

    python -m vllm.v1.engine.core EngineCore <worker_extension_cls>
        stdin ── a byte for each request ──► stdout
"""

import asyncio
import importlib
import os
import subprocess
import sys
from collections import deque
from types import SimpleNamespace
from typing import Any

CHUNK_BYTES = 1 << 16


def start(extension: str) -> "subprocess.Popen[bytes]":
    """Start the process; its environment is this one's, as it is now."""
    return subprocess.Popen(
        [sys.executable, "-m", __name__, "EngineCore", extension],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


class Steps:
    """Waits for the process, once for each request; belongs to one event loop."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin.fileno(), process.stdout.fileno()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._stdout, self._read)

    async def step(self) -> None:
        """A round trip. Raises OSError when the process has ended."""
        future = self._loop.create_future()
        os.write(self._stdin, b".")
        self._waiting.append(future)
        await future

    def _read(self) -> None:
        data = os.read(self._stdout, CHUNK_BYTES)
        if not data:
            self._loop.remove_reader(self._stdout)
        for _ in range(len(data) or len(self._waiting)):
            future = self._waiting.popleft()
            if future.cancelled():
                continue
            if data:
                future.set_result(None)
            else:
                future.set_exception(OSError("the engine's process has ended"))


def extended(name: str) -> Any:
    """A worker with the class ``name`` mixed in, whose model runs on no device."""
    module, _, kind = name.rpartition(".")
    mixed_in = getattr(importlib.import_module(module), kind)
    worker = type("Worker", (mixed_in,), {})()
    worker.model_runner = SimpleNamespace(device="none")
    return worker


if __name__ == "__main__":
    extended(sys.argv[2])  # its import ties this process to the worker server
    while data := os.read(0, CHUNK_BYTES):
        os.write(1, data)
