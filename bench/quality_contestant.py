"""One contestant of bench/quality, alone in its process.

``python quality_contestant.py MODULE CLASS ENGINE``, where ENGINE is an ``Engine`` as JSON. A line
in is ``{"question": …, "file": …, "facts": […]}``, a line out what came of it: an ``Answer``, and
the seconds it took.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ANSWER_TOKENS = 12
SAMPLING: dict[str, Any] = {"max_tokens": ANSWER_TOKENS, "temperature": 0, "stop": ["\n"]}
"""What *find* asks its worker with; all others too."""


@dataclass(frozen=True)
class Engine:
    """The worker: its endpoint, the model's name there, and its window."""

    url: str
    model: str
    window_tokens: int


@dataclass(frozen=True)
class Asked:
    """A question about a text; ``facts``, where its answer stands, are for the ceiling alone."""

    text: str
    question: str
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What it said, and what its worker calls cost in tokens, as the endpoint counted them."""

    text: str | None
    calls: int
    prompt_tokens: int
    completion_tokens: int


class Answering(ABC):
    """One way to have a question about a text answered."""

    @abstractmethod
    def __init__(self, engine: Engine) -> None: ...

    @abstractmethod
    def answer(self, asked: Asked) -> Answer:
        """This is what is timed."""


def main() -> None:
    """Answer until there are no more questions."""
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever prints, replies stay clean
    module, name, engine = sys.argv[1:]
    contestant = getattr(importlib.import_module(module), name)(Engine(**json.loads(engine)))
    for line in sys.stdin:
        wanted = json.loads(line)
        text = Path(wanted["file"]).read_text("utf-8")
        asked = Asked(text, wanted["question"], tuple(wanted["facts"]))
        started_s = time.perf_counter()
        try:
            answer = contestant.answer(asked)
            said = asdict(answer)
        except Exception as error:  # noqa: BLE001  (a contestant that fails has no answer)
            said = {"error": f"{type(error).__name__}: {error}"}
        seconds = time.perf_counter() - started_s
        print(json.dumps({**said, "seconds": seconds}), file=replies, flush=True)


if __name__ == "__main__":
    main()
