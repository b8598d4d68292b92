"""Who is watched: the process that the launcher started, or that the kernel says has connected."""

import asyncio
import functools
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from distill.protocol import PROTOCOL_VERSION
from distill.protocol import worker_link as wire
from distill.protocol.codec import WORKER_TO_DRIVER
from distill.protocol.launcher_link import Started
from distill.protocol.message import Welcome
from distill.protocol.sockets import Inbound, Sockets
from distill.supervisor import background, driver
from distill.supervisor.exits import Watch
from distill.supervisor.fleet import Fleet
from distill.supervisor.workers import WorkerSpec

SLEEPER = (sys.executable, "-c", "import time; time.sleep(60)")
CARD = wire.ModelCard("stranger", "a", "b", "c", "f32", "cpu", "none", "0", 4096, "raw_logprobs")


class Stranger:
    """Somebody who speaks to the workers' socket from this process."""

    def __init__(self, host: driver.Driver) -> None:
        self.epoch = secrets.token_hex(8)
        self._sockets = Sockets()
        self._sockets.connect(
            "d",
            host.endpoints["workers"],
            identity=self.epoch.encode(),
            limit_bytes=wire.FRAME_LIMIT_BYTES,
        )

    def say(self, message: wire.FromWorker) -> None:
        self._sockets.send("d", WORKER_TO_DRIVER.encode(message))

    def hello(self, name: str, pid: int) -> None:
        self.say(wire.WorkerHello(PROTOCOL_VERSION, name, self.epoch, pid))

    async def hears(self) -> Any:
        batch = await asyncio.to_thread(self._sockets.poll, 10.0)
        return WORKER_TO_DRIVER.decode(batch[0].payload)

    def close(self) -> None:
        self._sockets.close()


def with_fleet(body: Callable[[driver.Driver, Fleet, Stranger], Any], *names: str) -> None:
    async def work() -> None:
        host = driver.shared()
        fleet = Fleet(host, [WorkerSpec(name, SLEEPER, dict(os.environ)) for name in names])
        stranger = Stranger(host)
        try:
            await body(host, fleet, stranger)
        finally:
            stranger.close()
            await fleet.close(1.0)

    driver.shared()
    background.wait(asyncio.wait_for(work(), 30))


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("not in time")


@pytest.mark.parametrize("knows_pid", [False, True])
def test_nobody_takes_the_name_of_a_worker_that_is_being_started(knows_pid: bool) -> None:
    async def body(host: driver.Driver, fleet: Fleet, stranger: Stranger) -> None:
        (worker,) = fleet.workers()
        await until(lambda: worker.pid != 0)
        stranger.hello("w0", worker.pid if knows_pid else os.getpid())
        refused = await stranger.hears()
        assert isinstance(refused, wire.WorkerRefused)
        assert "a worker named w0 is here already" in refused.detail
        assert worker.conversation.state == "new"

    with_fleet(body, "w0")


@pytest.mark.parametrize(("pid", "state"), [(4321, "loading"), (4322, "new")])
def test_a_hello_before_the_launchers_word_waits_for_it(pid: int, state: str) -> None:
    async def body(host: driver.Driver, fleet: Fleet, stranger: Stranger) -> None:
        (worker,) = fleet.workers()
        hello = hello_of("w0", stranger.epoch)
        fleet._on_batch([Inbound("workers", stranger.epoch.encode(), hello, pid=4321)])
        assert worker.conversation.state == "new"
        fleet._on_child(worker, Started("w0", pid))
        assert worker.conversation.state == state

    with_fleet(body, "w0")


def hello_of(name: str, epoch: str) -> bytes:
    return WORKER_TO_DRIVER.encode(wire.WorkerHello(PROTOCOL_VERSION, name, epoch, 4321))


def test_a_false_pid_harms_nobody() -> None:
    """Who is named is neither watched nor killed, and its end says nothing of the liar."""
    victim = subprocess.Popen(SLEEPER)

    async def body(host: driver.Driver, fleet: Fleet, stranger: Stranger) -> None:
        stranger.hello("liar", victim.pid)
        assert isinstance(await stranger.hears(), Welcome)
        (worker,) = fleet.workers()
        assert worker.pid == os.getpid(), "as the kernel says"
        stranger.say(wire.WorkerReady(CARD, 1, 100, 0.0))
        await until(lambda: worker.is_ready)
        victim.kill()
        victim.wait()
        await asyncio.sleep(0.1)
        assert worker.is_ready
        stranger.say(wire.WorkerReady(CARD, 1, 100, 0.0))  # illegal: it is heard no more
        assert isinstance(await stranger.hears(), wire.WorkerRefused)
        assert list(fleet.workers()) == []

    with_fleet(body)


def test_the_kernel_tells_who_has_connected() -> None:
    """Once a peer: with its first message."""
    host = driver.shared()
    bound = Sockets()
    endpoint = bound.bind("w", f"ipc://{host.run_directory}/told.sock", limit_bytes=100)
    code = (
        "import sys; from distill.protocol.sockets import Sockets; s = Sockets();"
        "s.connect('d', sys.argv[1], identity=b'peer', limit_bytes=100);"
        "s.send('d', b'one'); s.send('d', b'two'); s.close()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, endpoint])
    heard: list[Inbound] = []
    deadline = time.monotonic() + 20
    while len(heard) < 2 and time.monotonic() < deadline:
        heard += bound.poll(1.0)
    assert process.wait(10) == 0
    bound.close()
    assert [(each.payload, each.pid) for each in heard] == [(b"one", process.pid), (b"two", 0)]


def test_an_end_is_told_once_and_not_to_who_has_closed() -> None:
    told: list[int] = []

    processes = [subprocess.Popen(SLEEPER) for _ in range(3)]

    async def body() -> None:
        loop = asyncio.get_running_loop()
        watches = [
            Watch(loop, process.pid, functools.partial(told.append, number))
            for number, process in enumerate(processes)
        ]
        watches[1].close()
        for process in processes[:2]:
            process.kill()
            process.wait()
        await until(lambda: bool(told))
        for watch in watches:
            watch.close()
            watch.close()
        processes[2].kill()
        processes[2].wait()
        await asyncio.sleep(0.1)
        with pytest.raises(ProcessLookupError):
            Watch(loop, processes[0].pid, lambda: None)

    asyncio.run(body())
    assert told == [0]
