"""Worker servers that join an engine that is up, by the real command, and leave it as they like."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from distill.errors import WorkerError
from distill.supervisor import background, driver
from distill.supervisor.backends import FleetBackend
from distill.supervisor.calls import WorkerCalls
from distill.supervisor.fleet import Fleet
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.run_log import RunLog
from distill.traces.records import WORKER_LOG, Call
from tests.engine_stand_in.spec import MODEL, calls_in, events_in, worker_spec
from tests.engine_stand_in.vllm.tokens import answer_to

PROMPTS = [f"prompt {number}" for number in range(600)]
RIGHT = [answer_to(prompt) for prompt in PROMPTS]
FEW = 200
"""Of the prompts: one worker answers them in 2 s, at 10 each 0.1 s."""


class Joined:
    """Starts worker servers by ``distill worker``."""

    def __init__(self, host: driver.Driver, folder: Path, latency_s: float) -> None:
        self._folder = folder
        self._connect = host.endpoints["clients"]
        self.environment = worker_spec("", latency_s=latency_s, at_once=10).env
        self.started: list[subprocess.Popen[bytes]] = []

    def join(self, name: str, model: Path = MODEL) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "distill", "worker", "--connect", self._connect]
        command += ["--name", name, "--worker", str(model)]
        command += ["--cores", str(min(os.sched_getaffinity(0)))]
        with (self._folder / f"{name}.err").open("w") as errors:
            process = subprocess.Popen(command, env=self.environment, stderr=errors)
        self.started.append(process)
        return process


Ask = Callable[..., Awaitable[list[Any]]]
Body = Callable[[Fleet, Ask, Joined], Awaitable[None]]


@contextmanager
def none_left(joined: Joined) -> Iterator[None]:
    try:
        yield
    finally:
        for process in joined.started:
            process.kill()
            process.wait()


def with_engine(folder: Path, body: Body, latency_s: float = 0.1) -> list[Call]:
    """Run ``body`` beside one worker server of the engine's own; the calls that were logged."""

    async def work() -> None:
        host = driver.shared()
        journal = host.open_journal(folder)
        spec = worker_spec(host.endpoints["workers"], "own", latency_s=latency_s, at_once=10)
        fleet = Fleet(host, [spec])
        joined = Joined(host, folder, latency_s)
        with none_left(joined):
            try:
                backend = FleetBackend(fleet, await asyncio.wait_for(fleet.ready(), 30))
                calls = WorkerCalls(host, backend, RunLog(journal, "run"), SpanIndex("x"))

                async def ask(prompts: list[str], **options: Any) -> list[Any]:
                    options = {"chat": False, **options}
                    return await asyncio.to_thread(calls.worker_batch, prompts, **options)

                await body(fleet, ask, joined)
            finally:
                await fleet.close()
                host.release_journal(journal)
            for process in joined.started:  # the engine has ended: so do they
                await asyncio.to_thread(process.wait, 10)

    driver.shared()
    background.wait(asyncio.wait_for(work(), 120))
    return sorted(calls_in(folder), key=lambda call: call.item)


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    for _ in range(int(timeout_s / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("not in time")


def names(fleet: Fleet) -> set[str]:
    return {worker.name for worker in fleet.workers() if worker.is_ready}


def working(fleet: Fleet) -> set[str]:
    """Who has answered, and has more to answer."""
    return {each.name for each in fleet.workers() if each.in_flight and each.answered}


def later_producers(folder: Path) -> set[str]:
    """Whose events a log begins with that is opened now."""

    async def open_and_close() -> None:
        host = driver.shared()
        host.release_journal(host.open_journal(folder))

    background.wait(open_and_close())
    lines = (
        (folder / WORKER_LOG).read_bytes().splitlines() if (folder / WORKER_LOG).exists() else []
    )
    return {msgspec.json.decode(line)["producer"]["name"] for line in lines}


def by(calls: list[Call]) -> set[str]:
    return {call.producer.name for call in calls}


def test_one_that_joins_in_mid_run_takes_work(tmp_path: Path) -> None:
    async def body(fleet: Fleet, ask: Ask, joined: Joined) -> None:
        joined.join("late")
        is_there = False
        while not is_there:  # the run goes on until it has come, and a batch longer
            is_there = names(fleet) == {"own", "late"}
            assert await ask(PROMPTS[:FEW]) == RIGHT[:FEW]

    calls = with_engine(tmp_path, body)
    assert by(calls) == {"own", "late"}
    batches = len(calls) // FEW
    every = [number for number in range(FEW) for _ in range(batches)]
    assert [call.item for call in calls] == every
    assert not {"own", "late"} & later_producers(tmp_path / "later"), "they are gone"


def test_who_is_told_to_leave_finishes_what_it_has(tmp_path: Path) -> None:
    ways = {"terminated": signal.SIGTERM, "interrupted": signal.SIGINT}

    async def body(fleet: Fleet, ask: Ask, joined: Joined) -> None:
        processes = {name: joined.join(name) for name in ways}
        await until(lambda: names(fleet) == {"own", *ways})
        answers = asyncio.ensure_future(ask(PROMPTS))
        for name, way in ways.items():
            await until(lambda: ways.keys() & working(fleet) == ways.keys() & names(fleet))
            processes[name].send_signal(way)
            assert await asyncio.to_thread(processes[name].wait, 20) == 0
            assert not answers.done()
        assert await answers == RIGHT
        assert names(fleet) == {"own"}

    calls = with_engine(tmp_path, body)
    assert by(calls) == {"own", *ways}
    assert {call.attempt for call in calls} == {1}


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_is_lost_loses_nothing(tmp_path: Path, way: int) -> None:
    async def body(fleet: Fleet, ask: Ask, joined: Joined) -> None:
        process = joined.join("lost")
        await until(lambda: "lost" in names(fleet))
        answers = asyncio.ensure_future(ask(PROMPTS[:FEW]))
        await until(lambda: "lost" in working(fleet))
        process.send_signal(way)
        assert await answers == RIGHT[:FEW]
        process.send_signal(signal.SIGCONT)  # what it says now is nobody's

    calls = with_engine(tmp_path, body)
    assert len(calls) == FEW
    assert {call.attempt for call in calls} == {1, 2}
    lost = [e for e in events_in(tmp_path, "worker_lost") if e.producer.name == "lost"][-1]
    noticed = "its process has ended" if way == signal.SIGKILL else "silent for 6 s"
    assert lost.detail == {"why": noticed, "requests": sum(call.attempt == 2 for call in calls)}


def test_one_ends_when_its_engine_has_died_without_a_word(tmp_path: Path) -> None:
    async def body(fleet: Fleet, ask: Ask, joined: Joined) -> None:
        process = joined.join("orphan")
        await until(lambda: "orphan" in names(fleet))
        assert await ask(PROMPTS[:5]) == RIGHT[:5]
        # What is left of an engine that was killed: its launcher has taken the sockets away.
        (driver.shared().run_directory / "workers.sock").unlink()
        assert await asyncio.to_thread(process.wait, 10) == 3

    try:
        with_engine(tmp_path, body, latency_s=0.0)
    finally:
        driver.shared().close()
    assert "the engine has ended" in (tmp_path / "orphan.err").read_text()


def test_another_model_is_asked_by_its_name(tmp_path: Path) -> None:
    other = tmp_path / "other-model"
    shutil.copytree(MODEL, other)

    async def body(fleet: Fleet, ask: Ask, joined: Joined) -> None:
        with pytest.raises(WorkerError, match="no worker serves 'other-model'"):
            await ask(["early"], model="other-model")
        joined.join("second", other)
        await until(lambda: "second" in names(fleet))
        assert await ask(PROMPTS[:50]) == RIGHT[:50]
        assert await ask(PROMPTS[:50], model="other-model") == RIGHT[:50]

    calls = with_engine(tmp_path / "run", body, latency_s=0.0)
    others = [call for call in calls if call.producer.name == "second"]
    assert len(others) == 50
    assert {call.model.model for call in others} == {str(other)}
    assert {call.sampling["model"] for call in others} == {str(other)}
    assert {call.model.model for call in calls if call.producer.name == "own"} == {str(MODEL)}


def test_who_is_refused_is_told_why(tmp_path: Path) -> None:
    changed = tmp_path / "model"
    shutil.copytree(MODEL, changed)
    weights = changed / "model.safetensors"

    async def refused(process: subprocess.Popen[bytes], name: str) -> str:
        status = await asyncio.to_thread(process.wait, 20)
        told = (tmp_path / "run" / f"{name}.err").read_text()
        assert status == 3, told
        return told

    async def body(fleet: Fleet, ask: Ask, joined: Joined) -> None:
        told = await refused(joined.join("own"), "own")
        assert "refused this worker: a worker named own is here already" in told
        joined.join("honest", changed)
        await until(lambda: "honest" in names(fleet))
        weights.write_bytes(weights.read_bytes() + b" ")
        told = await refused(joined.join("liar", changed), "liar")
        assert "model is another than honest's: weights_hash differs" in told
        assert names(fleet) == {"own", "honest"}
        assert await ask(PROMPTS[:5]) == RIGHT[:5]

    with_engine(tmp_path / "run", body, latency_s=0.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--connect", "tcp://10.0.0.1"], "no endpoint of an engine"),
        (["--gpu", "0", "--cores", "1"], "exclude each other"),
        (["--connect", "ipc:///nowhere/clients.sock", "--cores", "0"], "no engine is up at"),
    ],
)
def test_what_can_not_be_joined_is_said(arguments: list[str], said: str) -> None:
    command = [sys.executable, "-m", "distill", "worker", "--worker", str(MODEL), *arguments]
    ended = subprocess.run(
        command,
        env=worker_spec("").env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode in (2, 3)
    assert said in ended.stderr
