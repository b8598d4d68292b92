"""The runs of a soak: cells that do a little of everything, and kills among them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psutil

from distill.protocol.jail_link import Limits
from distill.repl import REPL, ExecResult
from distill.supervisor import driver

LANES = 3
"""Runs at a time."""
LIMITS = Limits(memory_bytes=192 << 20, scratch_bytes=8 << 20, cell_s=1.5, grace_s=0.2)
CONTEXT = "A text that every run is asked about. " * 1000
COUNT = "n = globals().get('n', 0) + 1"
CELLS = (
    "pass",
    "assert worker('x') == 'x'",
    "assert worker_batch(['a', 'b']) == ['a', 'b']",
    "assert len(context) == 38000",
    "with open(f'/tmp/{n}.txt', 'w') as file: file.write('x' * 1000)",
    "import sys; sys.stderr.write('warned\\n')",
    "import threading; t = threading.Thread(target=int); t.start(); t.join()",
    "kept = list(range(1000))",
)
"""Each runs between COUNT and a print of ``n``, by which the session is known."""
INSIDE = {
    "os._exit": "import os\nos._exit(0)",
    "segmentation fault": "import ctypes\nctypes.string_at(0)",
    "memory bomb": (
        "def bomb():\n hoard = []\n while True: hoard.append(bytearray(1 << 20))\nbomb()"
    ),
    "timeout": "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
    "interrupt": "while True: pass",
}
OUTSIDE = {"SIGKILL of an interpreter": "/python/", "SIGKILL of a keeper": "distill.sandbox.keeper"}
"""What is killed → a word of its command line. It may hit any run, or the jail that stands by."""
HAZARDS = (*INSIDE, *OUTSIDE)
SLOW = "import time\ntime.sleep(0.05)"


@dataclass
class Outcome:
    """What came of all runs."""

    runs: int = 0
    cells: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    """Kills of a kind that cost the cell its jail; the others were an exception, or missed it."""
    restored: int = 0
    forgotten: int = 0
    """Sessions that counted on, or began again, in the cell after a loss."""
    faults: list[str] = field(default_factory=list)

    def told(self, kind: str) -> str:
        """What kills of this kind cost."""
        return f"{self.lost[kind]} cost the jail"


class Soak:
    """One driver and its runs; the same seed makes the same runs, but not the same timing."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._driver = driver.shared()

    @property
    def launcher_pid(self) -> int:
        """The launcher's pid."""
        return self._driver.children.launcher_pid

    def run(self, runs: int, cells: int, kills: int) -> Outcome:
        """So many runs, with cells and kills spread over them by chance."""
        outcome = Outcome()
        hazards = [HAZARDS[i % len(HAZARDS)] for i in range(kills)]
        places = self._random.sample(range(cells), kills)
        plan: list[str | None] = [None] * cells
        for place, hazard in zip(places, hazards, strict=True):
            plan[place] = hazard
        shares = [plan[i::runs] for i in range(runs)]
        with ThreadPoolExecutor(LANES) as lanes:
            for share in shares:
                lanes.submit(self._one, share, random.Random(self._random.random()), outcome)
        return outcome

    def _one(self, plan: list[str | None], chance: random.Random, outcome: Outcome) -> None:
        outcome.runs += 1
        try:
            with REPL(CONTEXT, "", worker_fn=str, worker_batch_fn=list) as repl:
                repl.limits = LIMITS
                session = _Session(repl, self.launcher_pid, outcome)
                for hazard in plan:
                    session.cell(chance) if hazard is None else session.hazard(hazard, chance)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is what the soak is for)
            outcome.faults.append(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """End the driver and all that it started."""
        self._driver.close()


class _Session:
    """One run's REPL, and what it must say next."""

    def __init__(self, repl: REPL, launcher_pid: int, outcome: Outcome) -> None:
        self._repl = repl
        self._launcher_pid = launcher_pid
        self._outcome = outcome
        self._count = 0
        self._was_lost = False

    def cell(self, chance: random.Random) -> None:
        """A harmless cell; another run's kill may still hit it."""
        result = self._execute(f"{COUNT}\n{chance.choice(CELLS)}\nprint(n)")
        if result.lost is not None:
            self._was_lost = True
            return
        self._check(result)

    def _check(self, result: ExecResult) -> None:
        if result.error is not None:
            name, took_s = result.error.name, result.elapsed
            self._outcome.faults.append(f"a harmless cell ended in {name} after {took_s:.1f} s")
            self._count += 1
            return
        said = int(result.full_stdout)
        if said == self._count + 1:
            self._outcome.restored += self._was_lost
        elif self._was_lost and said <= self._count:
            self._outcome.forgotten += 1
        else:
            self._outcome.faults.append(f"a session says {said} after {self._count}")
        self._count, self._was_lost = said, False

    def hazard(self, kind: str, chance: random.Random) -> None:
        """A cell that is killed, or kills itself."""
        self._outcome.kills[kind] += 1
        if kind in INSIDE:
            result = self._execute(INSIDE[kind])
        else:
            strike = self._strike(OUTSIDE[kind], chance)
            result = self._execute(SLOW)
            strike.join()
        self._was_lost |= result.lost is not None
        self._outcome.lost[kind] += result.lost is not None

    def _execute(self, code: str) -> ExecResult:
        self._outcome.cells += 1
        return self._repl.execute(code)

    def _strike(self, mark: str, chance: random.Random) -> threading.Thread:
        """Kill one of those whose command line holds ``mark``, somewhen in the next cell."""
        delay_s, pick = chance.uniform(0, 0.05), chance.random()

        def strike() -> None:
            time.sleep(delay_s)
            victims = _below(self._launcher_pid, lambda words: any(mark in w for w in words[:4]))
            if victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victims[int(pick * len(victims))], signal.SIGKILL)

        thread = threading.Thread(target=strike)
        thread.start()
        return thread


def _below(pid: int, is_it: Callable[[list[str]], bool]) -> list[int]:
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if is_it(process.cmdline()):
                found.append(process.pid)
    return sorted(found)
