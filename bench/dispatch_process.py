"""The bench's end of a contestant, and which contestants there are."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox_environment import Environment

HERE = Path(__file__).parent
OURS, ECHO, BATCHED = "distill", "ZeroMQ echo", "ZeroMQ echo, batches of 64"
VLLM, OPENAI = "vLLM's engine-core client", "AsyncOpenAI, FastAPI"


@dataclass(frozen=True)
class Kind:
    """Its module with the arguments of its class, and a block's requests by prompt size."""

    module: tuple[str, ...]
    requests: dict[int, int]


CONTESTANTS = {
    OURS: Kind(("dispatch_ours",), {1_000: 8_000, 20_000: 1_000}),
    ECHO: Kind(("dispatch_echo",), {1_000: 40_000, 20_000: 10_000}),
    BATCHED: Kind(("dispatch_echo", "64"), {1_000: 80_000, 20_000: 10_000}),
    VLLM: Kind(("dispatch_vllm",), {1_000: 12_000, 20_000: 5_000}),
    OPENAI: Kind(("dispatch_openai",), {1_000: 500, 20_000: 500}),
}
"""A block is some half a second of work, or one where it is slow."""


def has_vllm() -> bool:
    """Whether vLLM can be imported here."""
    return importlib.util.find_spec("vllm") is not None


class Process:
    """One contestant, started by the constructor."""

    def __init__(self, name: str, anchors: Environment) -> None:
        kind = CONTESTANTS[name]
        self._requests = kind.requests
        self._process = subprocess.Popen(
            [
                anchors.python if name == OPENAI else sys.executable,
                str(HERE / "dispatch_contestant.py"),
                *kind.module,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": "" if name == OPENAI else str(HERE.parent)},
            text=True,
        )

    def block(self, size_bytes: int) -> dict[str, Any]:
        """Have it do one block. Raises RuntimeError if it does not answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        command = {"count": self._requests[size_bytes], "size_bytes": size_bytes}
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        block: dict[str, Any] = json.loads(line)
        return block

    def close(self) -> None:
        """End it, and so its peer."""
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
