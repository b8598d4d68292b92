"""One contestant of bench/turns, alone in its process.

``python turns_contestant.py MODULE CLASS URL``. A line in is a ``Block`` as JSON, a line out what
it took, ``Took``.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Block:
    """``runs`` at once, each of ``turns``; ``conversations`` are what an SDK is to send."""

    runs: int
    turns: int
    conversations: list[list[dict[str, Any]]] = field(default_factory=list)


@dataclass
class Took:
    """Sums over all runs of a block, in seconds.

    ``run_s`` is how long they lasted, ``model_s`` how long of that they waited for a model's reply
    (of both models; with the SDK's own time), ``start_s`` for their jail. ``cpu_s`` is this
    process' processor time, of which ``sdk_cpu_s`` was within the SDK. None: not known here.
    """

    run_s: float
    start_s: float | None = None
    model_s: float | None = None
    cpu_s: float = 0.0
    sdk_cpu_s: float | None = None
    keeper_cpu_s: float | None = None
    jail_cpu_s: float | None = None
    conversations: list[list[dict[str, Any]]] = field(default_factory=list)


class Running(ABC):
    """One way to run the turns."""

    @abstractmethod
    def __init__(self, url: str) -> None: ...

    @abstractmethod
    def run(self, block: Block) -> Took:
        """Do a block; ``cpu_s`` is filled in by the caller."""


def cpu_s() -> float:
    """Processor seconds of this process so far, all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Carry out blocks until there are no more."""
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever prints, replies stay clean
    module, name, url = sys.argv[1:]
    contestant = getattr(importlib.import_module(module), name)(url)
    for line in sys.stdin:
        before = cpu_s()
        took = contestant.run(Block(**json.loads(line)))
        took.cpu_s = cpu_s() - before
        print(json.dumps(asdict(took)), file=replies, flush=True)


def timed(work: Any) -> float:
    """How long a call takes."""
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
