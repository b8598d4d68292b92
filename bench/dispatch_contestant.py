"""One contestant of bench/dispatch, alone in its process, with a peer that answers at once.

``python dispatch_contestant.py MODULE``, whose class ``Contestant`` is the driver's side; the
peer's side is the same module, run as a program. A line in is ``{"count": …, "size_bytes": …}``,
a line out what that block took.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import resource
import signal
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from dispatch_prompts import context, prompts

PR_SET_PDEATHSIG = 1
TICKS_A_SECOND = 100
"""USER_HZ, of /proc/PID/stat."""


class Asking(ABC):
    """The driver's side of one way to have prompts answered."""

    peer: int
    """The pid of the process that answers."""

    @abstractmethod
    def prepare(self, asked: list[str]) -> None:
        """What is not to be timed, for the next block."""

    @abstractmethod
    def ask(self, asked: list[str]) -> None:
        """Have all answered, with at most IN_FLIGHT on their way."""

    @abstractmethod
    def check(self, asked: list[str]) -> None:
        """Raise AssertionError if an answer was not as it had to be."""

    @abstractmethod
    def close(self) -> None:
        """End the peer."""


def cpu_s() -> float:
    """Processor seconds of this process so far, all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cpu_s_of(pid: int) -> float:
    """Processor seconds of another process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def die_with_parent() -> None:
    """For a peer: be killed when the contestant ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def block(contestant: Asking, asked: list[str]) -> dict[str, Any]:
    """Requests a second, and processor µs a request on both sides."""
    contestant.prepare(asked)
    before, before_peer, started = cpu_s(), cpu_s_of(contestant.peer), time.perf_counter()
    contestant.ask(asked)
    seconds = time.perf_counter() - started
    driver, peer = cpu_s() - before, cpu_s_of(contestant.peer) - before_peer
    contestant.check(asked)
    return {
        "requests_s": len(asked) / seconds,
        "driver_us": 1e6 * driver / len(asked),
        "peer_us": 1e6 * peer / len(asked),
    }


def main() -> None:
    """Carry out commands until there are no more."""
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever prints, replies stay clean
    contestant = importlib.import_module(sys.argv[1]).Contestant(*sys.argv[2:])
    text, first = context(), 0
    for line in sys.stdin:
        wanted = json.loads(line)
        asked = prompts(text, wanted["count"], wanted["size_bytes"], first)
        first += len(asked)
        print(json.dumps(block(contestant, asked)), file=replies, flush=True)
    contestant.close()


if __name__ == "__main__":
    main()
