"""An engine that has no worker of its own, and worker servers that dial it by the real command."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from distill.supervisor import background, driver
from distill.supervisor.backends import FleetBackend
from distill.supervisor.calls import WorkerCalls
from distill.supervisor.fleet import Fleet
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.run_log import RunLog
from distill.traces.records import Call
from tests.engine_stand_in.spec import MODEL, calls_in, worker_spec
from tests.engine_stand_in.vllm.tokens import answer_to

PROMPTS = [f"prompt {number}" for number in range(300)]
RIGHT = [answer_to(prompt) for prompt in PROMPTS]


class Far:
    """The engine, and those who joined it."""

    def __init__(self, folder: Path, latency_s: float, listen: str) -> None:
        self.folder = folder
        self.host = driver.Driver()
        self.endpoint = self.host.listen_to_remote_workers(listen)
        self.fleet: Fleet
        self.environment = worker_spec("", latency_s=latency_s, at_once=10).env
        self.started: list[subprocess.Popen[bytes]] = []

    def join(
        self,
        name: str,
        *words: str,
        model: Path = MODEL,
        cores: str | None = "0",
        before: Sequence[str] = (),
        **env: str,
    ) -> subprocess.Popen[bytes]:
        """``before``: words in front of the command, that bring it to another place."""
        command = [*before, sys.executable, "-m", "distill", "worker", "--connect", self.endpoint]
        command += ["--name", name, "--worker", str(model), "--redial-s", "5"]
        command += [*(("--cores", cores) if cores is not None else ()), *words]
        with (self.folder / f"{name}.err").open("w") as errors:
            process = subprocess.Popen(command, env=self.environment | env, stderr=errors)
        self.started.append(process)
        return process

    def cut(self) -> None:
        """The engine is gone without a word, as one that was killed."""
        assert self.host._remote is not None
        self.host._remote.close()

    async def ended(self, process: subprocess.Popen[bytes], name: str) -> tuple[int, str]:
        status = await asyncio.to_thread(process.wait, 20)
        return status, (self.folder / f"{name}.err").read_text()

    def ready(self) -> set[str]:
        return {worker.name for worker in self.fleet.workers() if worker.is_ready}

    async def until_ready(self, *names: str) -> None:
        for _ in range(1000):
            if self.ready() == set(names):
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{self.ready()}, not {names}")

    def logged(self) -> str:
        logs = [self.folder / "log" / f"{name}.jsonl" for name in ("supervisor", "worker")]
        return "".join(log.read_text() for log in logs if log.exists())


Ask = Callable[[list[str]], Awaitable[list[Any]]]
Body = Callable[[Far, Ask], Awaitable[None]]


def with_engine(
    folder: Path, body: Body, latency_s: float = 0.05, listen: str = "tcp://127.0.0.1:0"
) -> list[Call]:
    """Run ``body`` beside an engine that listens; the calls that were logged."""
    far = Far(folder, latency_s, listen)

    async def work() -> None:
        journal = far.host.open_journal(folder / "log")
        far.fleet = Fleet(far.host, [], awaits_others=True)

        async def ask(prompts: list[str]) -> list[Any]:
            card = await asyncio.wait_for(far.fleet.ready(), 20)
            backend = FleetBackend(far.fleet, card)
            calls = WorkerCalls(far.host, backend, RunLog(journal, "run"), SpanIndex("x"))
            return await asyncio.to_thread(calls.worker_batch, prompts, chat=False)

        try:
            await body(far, ask)
        finally:
            await far.fleet.close()
            far.host.release_journal(journal)

    try:
        background.wait(asyncio.wait_for(work(), 120))
    finally:
        far.host.close()
        for process in far.started:
            process.kill()
            process.wait()
    return sorted(calls_in(folder / "log"), key=lambda call: call.item)
