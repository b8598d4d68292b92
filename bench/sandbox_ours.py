"""distill as a contestant: the REPL that a run uses, in the jail that a run gets."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from sandbox_contestant import CELL_S, Contestant, Lost

from distill.protocol.jail_link import Limits
from distill.repl import REPL
from distill.supervisor import background, driver

TIMED_CALLS = """
import time
def timed_calls(count):
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        worker("x")
        seconds.append(time.perf_counter() - started)
    return seconds
"""


class Distill(Contestant):
    """A REPL with the default limits, but for the seconds of a cell."""

    def __init__(self) -> None:
        self._repl: REPL | None = None
        self._events: Path | None = None

    def open(self) -> None:
        self._repl = self._make("")
        self._repl.limits = Limits(cell_s=CELL_S, grace_s=CELL_S / 2)

    def open_with(self, text: str) -> None:
        self._repl = self._make(text)

    def _make(self, text: str) -> REPL:
        return REPL(text, "", worker_fn=lambda prompt: prompt, worker_batch_fn=list)

    def cell(self, code: str, limit_s: float = CELL_S) -> str:  # noqa: ARG002  (REPL.limits)
        assert self._repl is not None
        result = self._repl.execute(code)
        if result.lost is not None:
            raise Lost(result.lost)
        return result.full_stdout or (result.error.name if result.error else "")

    def calls(self, count: int) -> list[float]:
        self.cell(TIMED_CALLS)
        seconds: list[float] = json.loads(self.cell(f"timed_calls({count})"))
        return seconds

    def hold(self, megabytes: int) -> dict[str, Any]:
        """Also ``visible_s``: from the text in its memory file to a look at it."""
        self.note_events()
        held = super().hold(megabytes)
        held["visible_s"] = self.jail_starts()[-1] + self._timed("context[-6:]")
        return held

    def replaced(self) -> float:
        """Seconds of a cell that ends its jail and of the next one: their keeper runs on."""
        self.open()
        self.cell("None")
        started = time.perf_counter()
        try:
            self.cell("import os\nos._exit(0)")
        except Lost:
            self.cell("print(6 * 7)")
            return time.perf_counter() - started
        finally:
            self.close()
        raise Lost("os._exit did not end it")

    def pid(self) -> int:
        """The interpreter's, seen from here: inside it is 1. The one that stands by is smaller."""
        launcher = psutil.Process(driver.shared().children.launcher_pid)
        found = [
            process.pid
            for process in launcher.children(recursive=True)
            if any(word.endswith("jail/interpreter.py") for word in process.cmdline())
            and process.cmdline()[0].startswith("/python")
        ]
        return max(found, key=lambda pid: psutil.Process(pid).memory_info().vms)

    def note_events(self) -> None:
        """From now on the driver's events are logged, for ``jail_starts``."""
        folder = Path(tempfile.mkdtemp(prefix="distill-bench-"))

        async def attach() -> None:
            driver.shared().open_journal(folder)

        background.wait(attach())
        self._events = folder / "supervisor.jsonl"

    def jail_starts(self) -> list[float]:
        """Seconds of each jail's start since ``note_events``, as its keeper measured them."""
        assert self._events is not None
        records = map(json.loads, self._events.read_text().splitlines())
        return [
            record["detail"]["start_s"] for record in records if record.get("event") == "jail_ready"
        ]

    def revive(self) -> None:
        """Nothing: the next cell gets a new jail by itself."""

    def close(self) -> None:
        if self._repl is not None:
            self._repl.close()
            self._repl = None
