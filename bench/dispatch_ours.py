"""distill as a run uses it: worker_batch, the fleet, a real worker server, both logs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import psutil
from dispatch_contestant import Asking
from dispatch_prompts import IN_FLIGHT, context

from distill.protocol import worker_link as wire
from distill.supervisor import background, driver
from distill.supervisor.backends import FleetBackend
from distill.supervisor.calls import WorkerCalls
from distill.supervisor.fleet import Fleet
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.run_log import RunLog
from distill.traces import records
from tests.engine_stand_in.spec import worker_spec
from tests.engine_stand_in.vllm.tokens import answer_to, render


class Contestant(Asking):
    """One driver and one worker server; a run and a log folder for each block."""

    def __init__(self) -> None:
        self._host = driver.shared()
        self._index = SpanIndex(context())
        self._folder = Path(tempfile.mkdtemp(prefix="dispatch-"))
        self._fleet, self._card = background.wait(self._start())
        (worker,) = self._fleet.workers()
        self.peer = psutil.Process(worker.producer.pid).pid
        self._answers: list[str] = []

    async def _start(self) -> tuple[Fleet, wire.ModelCard]:
        endpoint = self._host.endpoints["workers"]
        fleet = Fleet(self._host, [worker_spec(endpoint, slots=IN_FLIGHT)])
        return fleet, await fleet.ready()

    def prepare(self, asked: list[str]) -> None:  # noqa: ARG002
        """A new run."""
        background.wait(self._begin())

    async def _begin(self) -> None:
        self._journal = self._host.open_journal(self._folder / "log")
        backend = FleetBackend(self._fleet, self._card)
        log = RunLog(self._journal, "bench")
        self._calls = WorkerCalls(self._host, backend, log, self._index)

    def ask(self, asked: list[str]) -> None:
        """As a cell does."""
        self._answers = self._calls.worker_batch(asked)

    def check(self, asked: list[str]) -> None:
        """Every answer right, in its place and in the log."""
        seen = [render([{"role": "user", "content": prompt}]) for prompt in asked]
        assert self._answers == [answer_to(prompt) for prompt in seen]
        background.wait(self._end())
        with (self._folder / "log" / records.WORKER_LOG).open("rb") as log:
            assert sum(b'"type":"call"' in line[:20] for line in log) == len(asked)
        shutil.rmtree(self._folder / "log")

    async def _end(self) -> None:
        self._host.release_journal(self._journal)

    def close(self) -> None:
        """End all of it."""
        background.wait(self._fleet.close())
        shutil.rmtree(self._folder)
        self._host.close()
