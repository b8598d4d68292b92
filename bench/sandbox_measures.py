"""What bench/sandbox measures, each over all contestants, turn by turn on one machine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from sandbox_environment import Environment
from sandbox_process import CLASSES, Dead, Process, Reply

SETTLE_S = 1.0
"""Between two sessions of one program, for whatever prepares the next one."""
CONTEXT_LIMIT_BYTES = 12 << 30
HAZARD_LIMIT_BYTES = 2 << 30
"""For the anchors: distill's own default for the jail."""
HAZARDS = {
    "exception": "1 / 0",
    "endless loop": "while True: pass",
    "loop deaf to Ctrl-C": (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    ),
    "6 GiB at once": "x = bytearray(6 << 30)",
    "memory bit by bit": "hoard = []\nwhile True: hoard.append(bytearray(1 << 20))",
    "os._exit(0)": "import os\nos._exit(0)",
    "segmentation fault": "import ctypes\nctypes.string_at(0)",
}
QUICK_HAZARDS = ("exception", "6 GiB at once", "os._exit(0)")
RUNNERS = [name for name in CLASSES if name not in ("bare chain", "mapped file")]
"""Those that run cells and keep variables."""


@dataclass
class Plan:
    """How much of everything; ``patience_s`` is how long an answer may take after a hazard."""

    rounds: int = 3
    sessions: int = 4
    blocks: int = 20
    trips: int = 100
    megabytes: tuple[int, ...] = (100, 1074)
    hazards: tuple[str, ...] = tuple(HAZARDS)
    patience_s: float = 10.0


QUICK = Plan(1, 2, 4, 50, megabytes=(100,), hazards=QUICK_HAZARDS, patience_s=4.0)


@dataclass
class Start:
    """Seconds until the first cell has answered, one entry a try."""

    cold: list[float] = field(default_factory=list)
    session: list[float] = field(default_factory=list)
    replaced: list[float] = field(default_factory=list)
    """distill only: a cell that ends its jail, and its successor's first cell."""
    jail: list[float] = field(default_factory=list)
    """distill only: of a jail by itself, its keeper running, as the keeper measured it."""


def starts(names: list[str], plan: Plan, anchors: Environment) -> dict[str, Start]:
    """From nothing, and in a program that has had a session before."""
    found = {name: Start() for name in names}
    for _ in range(plan.rounds):
        for name, start in found.items():
            process = Process(name, anchors)
            try:
                _check(process.ask("first"))
                start.cold.append(process.age_s)
                if name == "distill":
                    process.ask("note_events")
                _sessions(process, start, plan.sessions)
                if name == "distill":
                    start.replaced += [process.ask("replaced").returned for _ in range(3)]
                    start.jail += process.ask("jail_starts").returned
            finally:
                process.close()
    return found


def _sessions(process: Process, start: Start, count: int) -> None:
    for _ in range(count):
        process.ask("close")
        time.sleep(SETTLE_S)
        reply = _check(process.ask("first"))
        start.session.append(reply.seconds)


def _check(reply: Reply) -> Reply:
    """The reply to a first cell. Raises Dead for anything but its answer."""
    if reply.returned is None or "42" not in reply.returned:
        raise Dead(f"the first cell came back as {reply}")
    return reply


def trips(names: list[str], plan: Plan, anchors: Environment) -> dict[str, dict[str, Any]]:
    """Seconds of trivial cells and of host calls: ``{name: {"cell": […], "call": […] | why}}``."""
    processes = {name: Process(name, anchors) for name in names}
    found: dict[str, dict[str, Any]] = {name: {"cell": [], "call": []} for name in names}
    try:
        for process in processes.values():
            process.ask("open")
            process.ask("trips", count=plan.trips)  # to warm up
        for _ in range(plan.blocks):
            for name, process in processes.items():
                found[name]["cell"] += process.ask("trips", count=plan.trips).returned
                reply = process.ask("calls", count=plan.trips)
                if reply.returned is None:
                    found[name]["call"] = reply.cannot
                else:
                    found[name]["call"] += reply.returned
    finally:
        for process in processes.values():
            process.close()
    return found


def contexts(names: list[str], plan: Plan, anchors: Environment) -> dict[str, dict[int, Any]]:
    """A context from the caller's str to its first use; a str where it could not be had."""
    found: dict[str, dict[int, Any]] = {name: {} for name in names}
    for megabytes in plan.megabytes:
        for name in names:
            limit_bytes = None if name == "distill" else CONTEXT_LIMIT_BYTES
            process = Process(name, anchors, limit_bytes)
            try:
                if name in RUNNERS:  # a program that has had a session, as above
                    _check(process.ask("first"))
                    process.ask("close")
                    time.sleep(SETTLE_S)
                reply = process.ask("hold", 120.0, megabytes=megabytes)
                found[name][megabytes] = reply.returned or reply.lost or reply.cannot
            except Dead as error:
                found[name][megabytes] = str(error)
            finally:
                process.close()
    return found


def hazards(names: list[str], plan: Plan, anchors: Environment) -> dict[str, dict[str, Any]]:
    """What is left after each hazard: ``{name: {hazard: {"said", "left", "seconds"}}}``."""
    return {
        name: {hazard: _hazard(name, hazard, plan.patience_s, anchors) for hazard in plan.hazards}
        for name in names
    }


def _hazard(name: str, hazard: str, patience_s: float, anchors: Environment) -> dict[str, Any]:
    """Seconds from the hazard's start, a time limit included, to the next cell's answer."""
    limit_bytes = None if name == "distill" else HAZARD_LIMIT_BYTES
    process = Process(name, anchors, limit_bytes)
    try:
        process.ask("open")
        process.ask("cell", code="kept = 41", limit_s=patience_s)
        started = time.perf_counter()
        came = process.ask("cell", patience_s, code=HAZARDS[hazard])
        if came.lost is not None:
            process.ask("revive")
        left = process.ask("cell", patience_s, code="print(kept + 1)")
        seconds = time.perf_counter() - started
    except Dead as error:
        return {"said": str(error), "left": "nothing", "seconds": None}
    finally:
        process.close()
    said = came.lost or (came.returned or "").strip()[-200:]
    return {"said": said, "left": _left(left), "seconds": seconds}


def _left(reply: Reply) -> str:
    """``all``: the variable is there; ``empty``: only the session; ``nothing``: not even that."""
    if reply.returned is None:
        return "nothing"
    return "all" if reply.returned.strip() == "42" else "empty"
