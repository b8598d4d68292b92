"""The bench's end of a contestant, and which contestants there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quality_contestant import Engine
from quality_tasks import Task
from sandbox_environment import Environment

HERE = Path(__file__).parent
FIND, LESS = "distill find", "distill find, few passages"
RLMS, BM25, BM25_FEW = "rlms, find's code", "BM25, a full window", "BM25, 3 passages"
TRUNCATED, SHOWN = "the text cut off", "(the facts alone)"


@dataclass(frozen=True)
class Kind:
    """Its module and class."""

    module: str
    kind: str

    @property
    def is_ours(self) -> bool:
        """Whether it runs in distill's own environment."""
        return self.module == "quality_ours"


CONTESTANTS = {
    FIND: Kind("quality_ours", "Find"),
    LESS: Kind("quality_ours", "FindLess"),
    RLMS: Kind("quality_anchors", "Rlms"),
    BM25: Kind("quality_anchors", "Bm25"),
    BM25_FEW: Kind("quality_anchors", "Bm25Few"),
    TRUNCATED: Kind("quality_anchors", "Truncated"),
    SHOWN: Kind("quality_anchors", "Shown"),
}
SHARING = (FIND, LESS, RLMS)
"""They ask the same prompts: only the first of a task does not find them in the engine's cache."""


class Process:
    """One contestant, started by the constructor."""

    def __init__(self, name: str, anchors: Environment, engine: Engine) -> None:
        kind = CONTESTANTS[name]
        self._process = subprocess.Popen(
            [
                sys.executable if kind.is_ours else anchors.python,
                str(HERE / "quality_contestant.py"),
                *(kind.module, kind.kind, json.dumps(asdict(engine))),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(HERE.parent) if kind.is_ours else ""},
            text=True,
        )

    def answer(self, task: Task, file: Path) -> dict[str, Any]:
        """Have it answer. Raises RuntimeError if it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        wanted = {"question": task.question, "file": str(file), "facts": task.facts}
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        said: dict[str, Any] = json.loads(line)
        return said

    def close(self) -> None:
        """End it."""
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
