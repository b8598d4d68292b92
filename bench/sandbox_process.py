"""The bench's end of a contestant: a process group that is asked, waited for, and killed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox_environment import Environment

HERE = Path(__file__).parent
DISTILL = ("distill", "bare chain", "mapped file")
"""Contestants that run in distill's own environment."""
CLASSES = {
    "distill": ("sandbox_ours", "Distill"),
    "bare chain": ("sandbox_chain", "Chain"),
    "ipykernel": ("sandbox_anchors", "Kernel"),
    "dspy LocalInterpreter": ("sandbox_anchors", "Dspy"),
    "rlms local": ("sandbox_anchors", "Rlms"),
    "rlms IPython": ("sandbox_anchors", "RlmsKernel"),
    "mapped file": ("sandbox_anchors", "MappedFile"),
}
PACKAGES = {
    "ipykernel": "ipykernel",
    "dspy LocalInterpreter": "dspy",
    "rlms local": "rlms",
    "rlms IPython": "rlms",
}
ANSWER_S = 30.0
"""For a command; what takes longer hangs."""


class Dead(Exception):
    """The contestant's own process did not answer: the message says how it ended."""


@dataclass
class Reply:
    """What came of a command; exactly one of the first three says it."""

    returned: Any = None
    lost: str | None = None
    cannot: str | None = None
    seconds: float = 0.0


class Process:
    """One contestant, started by the constructor; ``limit_bytes`` bounds its memory."""

    def __init__(self, name: str, anchors: Environment, limit_bytes: int | None = None) -> None:
        module, kind = CLASSES[name]
        python = sys.executable if name in DISTILL else anchors.python
        arguments = [python, str(HERE / "sandbox_contestant.py"), module, kind]
        self._started_s = time.perf_counter()
        self._process = subprocess.Popen(
            [*arguments, *([str(limit_bytes)] if limit_bytes else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(HERE.parent) if name in DISTILL else ""},
            start_new_session=True,
        )

    @property
    def age_s(self) -> float:
        """Seconds since it was started."""
        return time.perf_counter() - self._started_s

    def ask(self, do: str, limit_s: float = ANSWER_S, **arguments: Any) -> Reply:
        """Have it carry out a command. Raises Dead if no reply comes."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        return Reply(**json.loads(self._line(limit_s)))

    def _line(self, limit_s: float) -> bytes:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], limit_s)[0]:
            raise Dead(f"no answer in {limit_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise Dead(f"the caller's own process died (status {self._process.wait()})")
        return line

    def close(self) -> None:
        """End it, in good order if it can, with all that it started."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
