"""The bench's end of a contestant, and which contestants there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine_models import Load, Setting

HERE = Path(__file__).parent
OURS, ASYNC, OFFLINE = "distill", "bare AsyncLLM", "LLM.generate"
CONTESTANTS = {
    OURS: ("engine_ours", "Distill"),
    ASYNC: ("engine_vllm", "BareAsyncLlm"),
    OFFLINE: ("engine_vllm", "OfflineLlm"),
}


class Process:
    """One contestant, started by the constructor."""

    def __init__(self, name: str, setting: Setting) -> None:
        self._first = 0
        self._process = subprocess.Popen(
            [
                *(sys.executable, str(HERE / "engine_contestant.py")),
                *CONTESTANTS[name],
                json.dumps(asdict(setting)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
            text=True,
        )

    def await_ready(self) -> None:
        """Wait until the engine is. Raises RuntimeError if it does not start."""
        self._line()

    def block(self, load: Load) -> dict[str, Any]:
        """Have it do one block of prompts that it has not seen."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({**asdict(load), "first": self._first}) + "\n")
        self._process.stdin.flush()
        self._first += load.count
        block: dict[str, Any] = self._line()
        return block

    def _line(self) -> Any:
        """What it says next. Raises RuntimeError if it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """End it, and so its engine."""
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
