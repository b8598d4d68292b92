"""Worker servers that join over tcp with a key, by the real command, and what goes wrong."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from distill.errors import InputError
from distill.supervisor import background, driver, keyring
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
    """An engine that has no worker of its own, and worker servers that dial it."""

    def __init__(self, folder: Path, latency_s: float) -> None:
        self.folder = folder
        self.host = driver.Driver()
        self.endpoint = self.host.listen_to_remote_workers("tcp://127.0.0.1:0")
        self.fleet: Fleet
        self.environment = worker_spec("", latency_s=latency_s, at_once=10).env
        self.started: list[subprocess.Popen[bytes]] = []

    def join(
        self, name: str, *words: str, model: Path = MODEL, **env: str
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "distill", "worker", "--connect", self.endpoint]
        command += ["--name", name, "--worker", str(model), "--redial-s", "5"]
        command += ["--cores", str(min(os.sched_getaffinity(0))), *words]
        with (self.folder / f"{name}.err").open("w") as errors:
            process = subprocess.Popen(command, env=self.environment | env, stderr=errors)
        self.started.append(process)
        return process

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


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return keyring.folder()


def with_engine(folder: Path, body: Body, latency_s: float = 0.05) -> list[Call]:
    """Run ``body`` beside an engine that listens; the calls that were logged."""
    far = Far(folder, latency_s)

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


def test_one_joins_and_answers_and_ends_with_its_engine(tmp_path: Path) -> None:
    async def body(far: Far, ask: Ask) -> None:
        process = far.join("far")
        assert await ask(PROMPTS) == RIGHT
        await far.fleet.close()
        status, told = await far.ended(process, "far")
        assert status == 0, told

    calls = with_engine(tmp_path, body, latency_s=0.0)
    assert {call.producer.name for call in calls} == {"far"}
    assert f'"host":"{socket.gethostname()}"' in (tmp_path / "log" / "worker.jsonl").read_text()


def test_the_key_may_be_in_the_environment(tmp_path: Path) -> None:
    async def body(far: Far, ask: Ask) -> None:
        text = keyring.worker_key_path().read_text()
        elsewhere = str(tmp_path / "nowhere")
        process = far.join("far", XDG_CONFIG_HOME=elsewhere, DISTILL_FLEET_KEY=text)
        assert await ask(PROMPTS[:5]) == RIGHT[:5]
        assert text.strip() not in " ".join(process.args)  # type: ignore[arg-type]

    with_engine(tmp_path, body, latency_s=0.0)


@pytest.mark.parametrize(
    "way", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)]
)
def test_one_that_is_lost_loses_nothing(tmp_path: Path, way: int) -> None:
    async def body(far: Far, ask: Ask) -> None:
        lost = far.join("lost")
        far.join("other")
        await far.until_ready("lost", "other")
        answers = asyncio.ensure_future(ask(PROMPTS))
        await asyncio.sleep(0.3)
        lost.send_signal(way)
        assert await answers == RIGHT
        assert far.ready() == {"other"}
        if way == signal.SIGSTOP:
            lost.send_signal(signal.SIGCONT)
            await far.until_ready("lost", "other")
            assert await ask(PROMPTS[:20]) == RIGHT[:20]

    calls = with_engine(tmp_path, body)
    assert len([call for call in calls if call.attempt == 2]) > 0


def test_an_address_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        host = driver.Driver()
        try:
            with pytest.raises(InputError, match=f"{port}: Address already in use"):
                host.listen_to_remote_workers(f"tcp://127.0.0.1:{port}")
            host.listen_to_remote_workers("tcp://127.0.0.1:0")
        finally:
            host.close()
