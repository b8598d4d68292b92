"""One contestant of bench/sandbox, alone in its process: a command a line in, a reply a line out.

``python sandbox_contestant.py MODULE CLASS``. It runs in distill's environment or in the
anchors', so it imports the standard library only. A command is ``{"do": METHOD, …}``; the
reply holds ``seconds``, measured here, and what the method returned, or ``lost``: why the session
did not answer, or ``cannot``: why this contestant has no such thing.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from abc import ABC, abstractmethod
from typing import Any

CELL_S = 1.0
"""What a cell may take, wherever the contestant lets its caller say so."""
LONG_S = 300.0
"""For a cell that reads a context."""
TRIVIAL = "None"


class Lost(Exception):
    """The session did not answer, or not in time; the message says what is known."""


class Cannot(Exception):
    """This contestant has no such thing, or not by any means that it documents."""


class Contestant(ABC):
    """A session of one REPL. What a caller would do by its documentation, and no more."""

    @abstractmethod
    def open(self) -> None:
        """Make a session that has no context."""

    @abstractmethod
    def cell(self, code: str, limit_s: float = CELL_S) -> str:
        """What one cell printed, or the exception that ended it. Raises Lost."""

    @abstractmethod
    def close(self) -> None:
        """End the session."""

    def first(self) -> str:
        """Make a session and run its first cell: nothing counts as started before."""
        self.open()
        return self.cell("print(6 * 7)", LONG_S)

    def trips(self, count: int) -> list[float]:
        """Seconds of each of ``count`` trivial cells."""
        return [self._timed(TRIVIAL) for _ in range(count)]

    def calls(self, count: int) -> list[float]:  # noqa: ARG002  (subclasses use it)
        """Seconds of each of ``count`` calls of a host function, seen by the cell."""
        raise Cannot("no functions of the host's in its cells")

    def hold(self, megabytes: int) -> dict[str, Any]:
        """Make a session with a context of that size and use it. Seconds, and bytes it cost."""
        text = document(megabytes)
        length = len(text)
        started = time.perf_counter()
        self.open_with(text)
        del text  # a session in this process is not to be charged for it
        seen = self.cell("print(len(context), context[-6:])", LONG_S)
        first_use_s = time.perf_counter() - started
        if seen.split() != [str(length), "needle"]:
            raise Lost(f"the context came as {seen[:100]!r}")
        started = time.perf_counter()
        self.cell("print(context.find('needle'))", LONG_S)
        search_s = time.perf_counter() - started
        return {
            "first_use_s": first_use_s,
            "search_s": search_s,
            "anonymous_bytes": anonymous_bytes(self.pid()),
        }

    def open_with(self, text: str) -> None:  # noqa: ARG002  (subclasses use it)
        """Make a session whose name ``context`` is this text."""
        raise Cannot("no context")

    def pid(self) -> int:
        """The process that holds the variables."""
        return int(self.cell("import os\nprint(os.getpid())"))

    def revive(self) -> None:
        """What its caller does once a session is lost: by default, make another."""
        self.close()
        self.open()

    def _timed(self, code: str) -> float:
        started = time.perf_counter()
        self.cell(code)
        return time.perf_counter() - started


def document(megabytes: int) -> str:
    """An ASCII text of so many MB (1,000,000 bytes) that ends in "needle"."""
    line = "In the beginning was the word, and 41 other words were with it.\n"
    size = megabytes * 1_000_000 - len("needle")
    return (line * (size // len(line) + 1))[:size] + "needle"


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process: memory of its own, shared mappings and files not counted."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
    raise Lost("its process is gone")


def limit_memory(limit_bytes: int) -> None:
    """Bound this process and all that it starts, so that a bomb does not harm the machine."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def obey(contestant: Contestant, command: dict[str, Any]) -> dict[str, Any]:
    """Carry out one command; the reply, with how long it took here."""
    method = getattr(contestant, command.pop("do"))
    started = time.perf_counter()
    try:
        reply = {"returned": method(**command)}
    except Lost as error:
        reply = {"lost": str(error)}
    except Cannot as error:
        reply = {"cannot": str(error)}
    return {**reply, "seconds": time.perf_counter() - started}


def main() -> None:
    """Obey until stdin ends. The replies go to what was stdout: a contestant may print."""
    module, name = sys.argv[1:3]
    if len(sys.argv) > 3:
        limit_memory(int(sys.argv[3]))
    with os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8") as replies:
        os.dup2(2, 1)
        contestant: Contestant = getattr(importlib.import_module(module), name)()
        for line in sys.stdin:
            replies.write(json.dumps(obey(contestant, json.loads(line))) + "\n")
        contestant.close()


if __name__ == "__main__":
    sys.modules["sandbox_contestant"] = sys.modules["__main__"]  # one module, one set of classes
    main()
