"""One contestant of bench/engine, alone in its process, with an engine of its own.

``python engine_contestant.py MODULE CLASS SETTING``, where SETTING is an
``engine_models.Setting`` as JSON. A line out says that the engine is ready; then a line in is a
``Load`` with ``first``, the number of its first prompt, and a line out is what that block took.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import psutil
from dispatch_prompts import context, prompts
from engine_models import Setting


@dataclass(frozen=True)
class Answer:
    """One completion, and what it cost in tokens."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class Answering(ABC):
    """One way to have prompts completed by a vLLM engine; greedily, each as one text."""

    @abstractmethod
    def ask(self, asked: list[str], answer_tokens: int) -> None:
        """Have all completed. This is what is timed."""

    @abstractmethod
    def answers(self) -> list[Answer]:
        """Those of the last ``ask``, in the order asked."""

    @abstractmethod
    def close(self) -> None:
        """End the engine."""


def cpu_s() -> float:
    """Processor seconds so far of this process and all below it."""
    own = psutil.Process()
    times = [process.cpu_times() for process in [own, *own.children(recursive=True)]]
    return sum(each.user + each.system for each in times)


def block(contestant: Answering, asked: list[str], answer_tokens: int) -> dict[str, Any]:
    """What it took, and the answers."""
    before, started = cpu_s(), time.perf_counter()
    contestant.ask(asked, answer_tokens)
    seconds, used_s = time.perf_counter() - started, cpu_s() - before
    answers = contestant.answers()
    assert len(answers) == len(asked)
    tokens = sum(answer.prompt_tokens + answer.completion_tokens for answer in answers)
    return {
        "requests_s": len(asked) / seconds,
        "tokens_s": tokens / seconds,
        "cpu_ms": 1e3 * used_s / len(asked),
        "answers": [asdict(answer) for answer in answers],
    }


def main() -> None:
    """Start the engine, and carry out commands until there are no more."""
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever prints, replies stay clean
    module, name, setting = sys.argv[1:]
    contestant = getattr(importlib.import_module(module), name)(Setting(**json.loads(setting)))
    print(json.dumps("ready"), file=replies, flush=True)
    text = context()
    for line in sys.stdin:
        wanted = json.loads(line)
        asked = prompts(text, wanted["count"], wanted["prompt_chars"], wanted["first"])
        print(
            json.dumps(block(contestant, asked, wanted["answer_tokens"])), file=replies, flush=True
        )
    contestant.close()


if __name__ == "__main__":
    main()
