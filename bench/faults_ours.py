"""Faults done to distill's workers, and when its driver noticed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import psutil

from distill.protocol import worker_link as wire
from distill.supervisor import background, driver
from distill.supervisor.fleet import Fleet
from distill.supervisor.requests import Outcome, Submission
from distill.supervisor.workers import Worker
from tests.engine_stand_in.spec import MODEL, worker_spec

OWN, JOINED = "own", "joined"
LATENCY_S = 0.3
ASKED = 24
"""Requests, half of them with each worker; the other has room for those of the one that is lost."""
SIGNAL_AFTER_S = 0.1
READY_S = 60.0


@dataclass(frozen=True)
class Kind:
    """What is done, and to whom."""

    title: str
    worker: str
    process: str
    signal: signal.Signals


KINDS = [
    Kind("a worker server, killed", OWN, "server", signal.SIGKILL),
    Kind("its engine's process, killed", OWN, "engine", signal.SIGKILL),
    Kind("a worker server that has joined, killed", JOINED, "server", signal.SIGKILL),
    Kind("a worker server, stopped", OWN, "server", signal.SIGSTOP),
    Kind("its engine's process, stopped", OWN, "engine", signal.SIGSTOP),
    Kind("a worker server that has joined, stopped", JOINED, "server", signal.SIGSTOP),
]


@dataclass
class Noticed:
    """Seconds from the signal until its requests were free, and until the first was sent again."""

    lost_s: float
    resent_s: float


class Watched(Fleet):
    """Notes when a worker's requests are given up, and when one is sent again."""

    def __init__(self, *args: Any) -> None:
        self.lost_s = self.resent_s = 0.0
        super().__init__(*args)

    def _release(self, worker: Worker, why: str) -> None:
        if worker.in_flight and not self.lost_s:
            self.lost_s = time.monotonic()
        super()._release(worker, why)

    def _send(self, worker: Worker, message: Any) -> None:
        super()._send(worker, message)
        again = isinstance(message, wire.Requests) and message.requests[0].attempt > 1
        if again and not self.resent_s:
            self.resent_s = time.monotonic()


class Bench:
    """One driver, one worker of its own, one that joins."""

    def __init__(self) -> None:
        self._host = driver.shared()
        spec = worker_spec(
            self._host.endpoints["workers"], OWN, slots=32, latency_s=LATENCY_S, through_core=True
        )
        self._environment = spec.env
        self._fleet = Watched(self._host, [spec])
        self._joined: subprocess.Popen[bytes] | None = None
        self._stopped: list[psutil.Process] = []

    async def once(self, kind: Kind) -> Noticed:
        """Do it while requests are in flight."""
        await self._ready()
        await self._ask()  # a worker that has never answered anything is not started for ever
        asking = asyncio.ensure_future(self._ask())
        await asyncio.sleep(SIGNAL_AFTER_S)
        fleet = self._fleet
        fleet.lost_s = fleet.resent_s = 0.0
        signalled_s = time.monotonic()
        self._process(kind).send_signal(kind.signal)
        outcomes = await asking
        for process in self._stopped:
            if process.is_running():
                process.send_signal(signal.SIGCONT)
        self._stopped.clear()
        assert all(isinstance(outcome.result, wire.Result) for outcome in outcomes)
        return Noticed(fleet.lost_s - signalled_s, fleet.resent_s - signalled_s)

    async def _ask(self) -> list[Outcome]:
        """Some requests, half of them with each worker."""
        name = time.monotonic_ns()
        requests = [
            wire.Request(f"{name}.{n}", 1, wire.Sampling(), prompt=f"{n}") for n in range(ASKED)
        ]
        outcomes: list[Outcome] = []
        all_here = asyncio.Event()

        def deliver(came: list[Outcome]) -> None:
            outcomes.extend(came)
            if len(outcomes) == ASKED:
                all_here.set()

        self._fleet.submit(Submission(requests, deliver, "bench", str(MODEL)))
        await all_here.wait()
        return outcomes

    def _process(self, kind: Kind) -> psutil.Process:
        worker = next(each for each in self._fleet.workers() if each.name == kind.worker)
        assert worker.in_flight
        server = psutil.Process(worker.producer.pid)
        found = server if kind.process == "server" else server.children()[0]
        if kind.signal == signal.SIGSTOP:
            self._stopped.append(found)
        return found

    async def _ready(self) -> None:
        """Both are up; who had joined and is gone joins again."""
        deadline_s = time.monotonic() + READY_S
        while {worker.name for worker in self._fleet.workers() if worker.is_ready} != {OWN, JOINED}:
            if time.monotonic() > deadline_s:
                raise TimeoutError("the workers are not ready")
            if self._joined is None or self._joined.poll() is not None:
                self._joined = self._join()
            await asyncio.sleep(0.02)

    def _join(self) -> subprocess.Popen[bytes]:
        connect = self._host.endpoints["clients"]
        command = [sys.executable, "-m", "distill", "worker", "--connect", connect]
        command += ["--name", JOINED, "--worker", str(MODEL)]
        command += ["--cores", str(min(os.sched_getaffinity(0)))]
        return subprocess.Popen(command, env=self._environment, stderr=subprocess.DEVNULL)

    async def close(self) -> None:
        """End all of it."""
        await self._fleet.close()
        if self._joined is not None:
            await asyncio.to_thread(self._joined.wait, 10)


def measure(kills: int, stops: int) -> dict[str, list[Noticed]]:
    """Each kind so many times, by its title."""

    async def work() -> dict[str, list[Noticed]]:
        bench = Bench()
        try:
            found: dict[str, list[Noticed]] = {}
            for kind in KINDS:
                print(f"{kind.title} …", flush=True)
                count = kills if kind.signal == signal.SIGKILL else stops
                found[kind.title] = [await bench.once(kind) for _ in range(count)]
            return found
        finally:
            await bench.close()

    driver.shared()
    try:
        return background.wait(work())
    finally:
        driver.shared().close()
