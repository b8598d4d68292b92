"""Trials: a batch of prompts while worker servers and their engines are killed and stopped.

::

    Trials: one driver, worker servers of its own and one that joins (and joins again)
      └─ trial(seed): worker_batch ── Faults, at moments that the seed gives ──► what was wrong
"""

import asyncio
import dataclasses
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from distill.errors import WorkerBatchError
from distill.supervisor import driver
from distill.supervisor.backends import FleetBackend
from distill.supervisor.calls import WorkerCalls
from distill.supervisor.fleet import Fleet
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.run_log import RunLog
from distill.supervisor.workers import Worker, WorkerSpec
from distill.traces import records
from tests.engine_stand_in.spec import calls_in, events_in
from tests.supervisor.processes import kill, left

READY_S = 30.0
GONE_S = 15.0
JOINED = "joined"


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is done to a worker's server or to its engine's process, and when."""

    at_s: float
    worker: int
    process: str
    signal: signal.Signals
    continued_s: float | None = None
    """After how long it is sent SIGCONT."""

    def __str__(self) -> str:
        then = "" if self.continued_s is None else f", continued after {self.continued_s:.1f} s"
        what = f"{self.signal.name} of {self.process} {self.worker}"
        return f"{what} at {self.at_s:.2f} s{then}"


def planned(seed: int, workers: int, *, within_s: float, stops: bool = True) -> list[Fault]:
    """Two to five faults; half of what is stopped is let go on, before or after it is noticed."""
    chance = random.Random(seed)
    faults = []
    for _ in range(chance.randint(2, 5)):
        number = signal.SIGSTOP if stops and chance.random() < 0.3 else signal.SIGKILL
        goes_on = number == signal.SIGSTOP and chance.random() < 0.5
        faults.append(
            Fault(
                chance.uniform(0, within_s),
                chance.randrange(workers),
                chance.choice(("server", "server", "engine")),
                number,
                chance.uniform(0.1, 8.0) if goes_on else None,
            )
        )
    return sorted(faults, key=lambda fault: fault.at_s)


@dataclasses.dataclass
class Outcome:
    """Of one trial."""

    answers: list[Any]
    calls: list[records.Call]
    took_s: float
    done: list[str]
    """The faults that hit a process."""
    noticed_s: list[float]
    """From each SIGKILL that hit a worker with requests in flight until they were given up."""
    dropped_results: int

    @property
    def told(self) -> str:
        """In a few words."""
        resent = sum(call.attempt > 1 for call in self.calls)
        noticed = ", ".join(f"{1000 * each:.0f}" for each in self.noticed_s)
        return f"{resent} re-sent, kills noticed after {noticed or 'no'} ms"


class Trials:
    """All on the driver's loop. ``join``: the command of the worker server that joins."""

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        join: Sequence[str] = (),
        env: Mapping[str, str] = MappingProxyType({}),
        *,
        ready_s: float = READY_S,
    ) -> None:
        self._ready_s = ready_s
        self._host = driver.shared()
        self._fleet = Fleet(self._host, specs)
        self._join, self._env = list(join), dict(env)
        self._joined: list[subprocess.Popen[bytes]] = []
        self._seen: set[int] = set()
        self._stopped: set[int] = set()
        self._kills: list[tuple[str, float]] = []
        """Of which workers, and when by the clock of the log."""

    # -- processes

    async def ready(self) -> None:
        """Wait until all workers can serve; one that has joined and is gone joins again."""
        deadline_s = time.monotonic() + self._ready_s
        while not all(self._up(number) for number in range(self.count)):
            assert time.monotonic() < deadline_s, f"not ready: {list(self._fleet.workers())}"
            self._rejoin()
            await asyncio.sleep(0.02)
        self._look()

    @property
    def count(self) -> int:
        """Worker servers, where all are up."""
        specs = sum(worker.spec is not None for worker in self._fleet.workers())
        return specs + bool(self._join)

    def _rejoin(self) -> None:
        if self._join and (not self._joined or self._joined[-1].poll() is not None):
            log = (self._host.run_directory / "joined.log").open("ab")
            with log:
                started = subprocess.Popen(self._join, env=self._env, stderr=log, stdout=log)
            self._joined.append(started)

    def _up(self, number: int) -> Worker | None:
        """The worker of this number, if it is ready; the one that joins is the last."""
        ready = [worker for worker in self._fleet.workers() if worker.is_ready]
        ours = sorted(worker.name for worker in self._fleet.workers() if worker.spec is not None)
        name = ours[number] if number < len(ours) else JOINED
        return next((worker for worker in ready if worker.name == name), None)

    def _look(self) -> None:
        """Remember every process of every worker."""
        for worker in self._fleet.workers():
            if worker.pid:
                self._seen |= set(_family(worker.pid))

    def _hit(self, fault: Fault) -> bool:
        """Do it; whether there was such a process."""
        worker = self._up(fault.worker)
        if worker is None:
            return False
        family = _family(worker.pid)
        self._seen |= set(family)
        engines = [pid for pid in family[1:] if _is_engine(pid)]
        pid = worker.pid if fault.process == "server" else engines[0] if engines else 0
        if not pid:
            return False
        if fault.signal == signal.SIGSTOP:
            self._stopped.add(pid)
        else:
            self._kills.append((worker.name, time.time()))
        kill(pid, fault.signal)
        if fault.continued_s is not None:
            self._host.loop.call_later(fault.continued_s, kill, pid, signal.SIGCONT)
        return True

    # -- a trial

    async def trial(
        self, folder: Path, prompts: list[str], faults: Sequence[Fault], **options: Any
    ) -> Outcome:
        """Ask the prompts as one batch, commit the faults meanwhile, and wait for peace."""
        before = self._fleet.dropped_results
        self._kills.clear()
        journal = self._host.open_journal(folder)
        keeping = asyncio.ensure_future(self._keep_joined())
        try:
            backend = FleetBackend(self._fleet, await self._fleet.ready())
            calls = WorkerCalls(self._host, backend, RunLog(journal, "run"), SpanIndex("x"))
            started_s = time.monotonic()
            asking = asyncio.ensure_future(
                asyncio.to_thread(calls.worker_batch, prompts, chat=False, **options)
            )
            done = await self._commit(faults, started_s, asking)
            try:
                answers = await asking
            except WorkerBatchError as error:
                answers = error.answers
            took_s = time.monotonic() - started_s
        finally:
            keeping.cancel()
            self._host.release_journal(journal)
        await self._settled()
        dropped = self._fleet.dropped_results - before
        return Outcome(answers, calls_in(folder), took_s, done, self._noticed_s(folder), dropped)

    async def _commit(
        self, faults: Sequence[Fault], started_s: float, asking: "asyncio.Future[Any]"
    ) -> list[str]:
        done = []
        for fault in faults:
            delay_s = started_s + fault.at_s - time.monotonic()
            await asyncio.wait((asking,), timeout=max(0.0, delay_s))
            if not asking.done() and self._hit(fault):
                done.append(str(fault))
        return done

    def _noticed_s(self, folder: Path) -> list[float]:
        lost = events_in(folder, "worker_lost")
        after = [
            [event.t - at for event in lost if event.producer.name == name and event.t >= at]
            for name, at in self._kills
        ]
        return [min(each) for each in after if each]

    async def _keep_joined(self) -> None:
        while True:
            self._rejoin()
            await asyncio.sleep(0.1)

    async def _settled(self) -> None:
        """All are up again, and nothing is left of those that are gone."""
        for pid in self._stopped:
            kill(pid, signal.SIGCONT)  # who was given up meanwhile is told so, and ends
        self._stopped.clear()
        await self.ready()
        await self._gone(self._seen - self._living())
        self._seen = self._living()
        for process in self._joined[:-1]:
            process.wait(5)

    async def _gone(self, pids: set[int]) -> None:
        """Wait until none of them is left."""
        deadline_s = time.monotonic() + GONE_S
        while left(pids):
            assert time.monotonic() < deadline_s, f"left behind: {left(pids)}"
            await asyncio.sleep(0.05)

    def _living(self) -> set[int]:
        """The processes of the workers that are up."""
        up = [worker for worker in self._fleet.workers() if worker.is_ready]
        return {pid for worker in up for pid in _family(worker.pid)}

    async def close(self) -> None:
        """End all; nothing may be left."""
        self._look()
        await self._fleet.close()
        for process in self._joined:
            await asyncio.to_thread(process.wait, 10)
        await self._gone(self._seen)


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _is_engine(pid: int) -> bool:
    try:
        return "EngineCore" in " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False


def joining(host: driver.Driver, *words: str) -> list[str]:
    """The command of a worker server that joins this driver."""
    command = [sys.executable, "-m", "distill", "worker", "--connect", host.endpoints["clients"]]
    return [*command, "--name", JOINED, *words]
