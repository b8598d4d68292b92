"""The launcher with plain children: starts, kills groups, reaps, and leaves nothing behind."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from distill.protocol.launcher_link import Exited, FromLauncher, Kill, NotStarted, Spawn, Started
from distill.supervisor.children import Children, scrubbed_environment
from tests.supervisor.processes import is_alive, left, python, tree, wait_until

NESTING = (
    "import subprocess, sys, time\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print('up', flush=True); time.sleep(600)"
)
DAEMON = (
    "import subprocess, sys, time\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
    " start_new_session=True)\n"
    "print('up', flush=True); time.sleep(600)"
)


class Host:
    """A driver of the test's own over the real launcher."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run"
        self.folder.mkdir()
        self.heard: list[FromLauncher] = []
        self.lost = False
        self.children = Children(
            asyncio.get_running_loop(), self.folder, self.heard.append, self._on_lost
        )
        self.children.listen()

    def _on_lost(self) -> None:
        self.lost = True

    def spawn(self, name: str, code: str, **fields: Any) -> None:
        given = {
            "argv": (sys.executable, "-c", code),
            "env": {"PATH": os.environ["PATH"]},
            "output_path": str(self.folder / f"{name}.log"),
        }
        self.children.send(Spawn(name, **{**given, **fields}))

    async def hear(self, kind: type[Any], timeout_s: float = 15.0) -> Any:
        async def wait() -> Any:
            while True:
                for message in self.heard:
                    if isinstance(message, kind):
                        self.heard.remove(message)
                        return message
                await asyncio.sleep(0.01)

        return await asyncio.wait_for(wait(), timeout_s)

    async def up(self, name: str) -> None:
        """Wait until a child has printed."""
        while "up" not in (self.folder / f"{name}.log").read_text():  # noqa: ASYNC110  (a file tells)
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def hosting(folder: Path) -> AsyncIterator[Host]:
    host = Host(folder)
    try:
        yield host
    finally:
        await asyncio.to_thread(host.children.close)
        assert not host.folder.exists()
        assert not is_alive(host.children.launcher_pid)


def run(work: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


def test_a_child_starts_prints_and_is_reaped(short: Path) -> None:
    async def work() -> None:
        async with hosting(short) as host:
            host.spawn("a", "import os; print('hello', os.getpgrp() == os.getpid())")
            pid = (await host.hear(Started)).pid
            assert await host.hear(Exited) == Exited("a", 0, 0)
            assert (host.folder / "a.log").read_text() == "hello True\n"
            assert not psutil.pid_exists(pid)

    run(work)


def test_a_name_is_one_childs_until_it_is_reaped(short: Path) -> None:
    async def work() -> None:
        async with hosting(short) as host:
            host.spawn("a", NESTING)
            first = await host.hear(Started)
            host.spawn("a", "print('up', flush=True)")
            assert "still there" in (await host.hear(NotStarted)).detail
            host.children.send(Kill("a"))
            assert (await host.hear(Exited)).status == -signal.SIGKILL
            host.spawn("a", "print('up', flush=True)")
            assert (await host.hear(Started)).pid != first.pid
            assert (await host.hear(Exited)).status == 0

    run(work)


@pytest.mark.parametrize(
    ("code", "status"),
    [("raise SystemExit(7)", 7), ("import os; os.abort()", -6), ("1/0", 1)],
)
def test_how_a_child_ended_is_told(short: Path, code: str, status: int) -> None:
    async def work() -> None:
        async with hosting(short) as host:
            host.spawn("a", code)
            assert (await host.hear(Exited)).status == status

    run(work)


@pytest.mark.parametrize(
    "fields",
    [
        {"argv": ("/nonexistent/program",)},
        {"argv": ("/etc",)},
        {"output_path": "/nonexistent/folder/log"},
        {"argv": ("nul\0byte",)},
        {"argv": ()},
    ],
    ids=["missing", "a folder", "no log", "nul", "nothing"],
)
def test_what_can_not_start_is_told_and_the_launcher_lives(short: Path, fields: Any) -> None:
    async def work() -> None:
        async with hosting(short) as host:
            host.spawn("bad", "pass", **fields)
            refused = await host.hear(NotStarted)
            assert refused.child == "bad"
            assert refused.detail
            host.spawn("good", "pass")
            assert await host.hear(Exited) == Exited("good", 0, 0)
            assert not host.lost

    run(work)


def test_a_kill_takes_the_whole_group(short: Path) -> None:
    async def work() -> None:
        async with hosting(short) as host:
            host.spawn("a", NESTING)
            pid = (await host.hear(Started)).pid
            await host.up("a")
            family = [pid, *tree(pid)]
            assert len(family) == 2
            host.children.send(Kill("a"))
            ended = await host.hear(Exited)
            assert (ended.status, ended.group_size) == (-9, 1)
            assert left(family) == []

    run(work)


def test_what_a_dead_child_leaves_behind_is_killed_and_counted(short: Path) -> None:
    async def work() -> None:
        async with hosting(short) as host:
            host.spawn("a", NESTING)
            pid = (await host.hear(Started)).pid
            await host.up("a")
            family = [pid, *tree(pid)]
            os.kill(pid, signal.SIGKILL)
            ended = await host.hear(Exited)
            assert ended.group_size == 1
            assert left(family) == []
            assert not [p for p in family if psutil.pid_exists(p)], "all must be reaped"

    run(work)


def test_a_stopped_group_dies_too(short: Path) -> None:
    async def work() -> None:
        async with hosting(short) as host:
            host.spawn("a", NESTING)
            pid = (await host.hear(Started)).pid
            await host.up("a")
            family = [pid, *tree(pid)]
            for member in family:
                os.kill(member, signal.SIGSTOP)
            host.children.send(Kill("a"))
            await host.hear(Exited)
            assert left(family) == []

    run(work)


def test_unknown_names_are_ignored(short: Path) -> None:
    async def work() -> None:
        async with hosting(short) as host:
            host.children.send(Kill("nobody"))
            host.spawn("a", "pass")
            await host.hear(Exited)

    run(work)


def test_closing_ends_everything_detached_ones_too(short: Path) -> None:
    families: list[int] = []

    async def work() -> None:
        async with hosting(short) as host:
            for name, code in (("a", NESTING), ("b", DAEMON)):
                host.spawn(name, code)
                pid = (await host.hear(Started)).pid
                await host.up(name)
                families.extend([pid, *tree(pid)])
        assert len(families) == 4

    run(work)
    assert left(families) == []


def test_signals_of_the_terminal_do_not_reach_the_launcher(short: Path) -> None:
    async def work() -> None:
        async with hosting(short) as host:
            await asyncio.sleep(0.5)
            host.spawn("a", NESTING)
            await host.hear(Started)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(host.children.launcher_pid, number)
            host.spawn("b", "pass")
            await host.hear(Exited)
            assert os.getsid(host.children.launcher_pid) != os.getsid(0)

    run(work)


@pytest.mark.parametrize("code", [NESTING, DAEMON], ids=["nesting", "daemon"])
def test_a_killed_launcher_takes_its_children_along(short: Path, code: str) -> None:
    async def work() -> None:
        host = Host(short)
        host.spawn("a", code)
        pid = (await host.hear(Started)).pid
        await host.up("a")
        family = [pid, *tree(pid)]
        os.kill(host.children.launcher_pid, signal.SIGKILL)
        for _ in range(500):
            if host.lost and not left(family[:1] if code is DAEMON else family):
                break
            await asyncio.sleep(0.01)
        assert host.lost
        assert not host.folder.exists()
        survivors = left(family)
        for each in survivors:
            os.kill(each, signal.SIGKILL)
        if code is NESTING:
            assert survivors == []
        await asyncio.to_thread(host.children.close)

    run(work)


DRIVER = """
import asyncio, sys, os
from pathlib import Path
from distill.protocol.launcher_link import Spawn, Started
from distill.supervisor.children import Children

async def main():
    folder = Path(sys.argv[1]); folder.mkdir()
    heard = []
    children = Children(asyncio.get_running_loop(), folder, heard.append, lambda: None)
    children.listen()
    for n, code in enumerate(sys.argv[2:]):
        env = {"PATH": os.environ["PATH"]}
        children.send(Spawn(f"c{n}", (sys.executable, "-c", code), env, str(folder / f"c{n}.log")))
    while len(heard) < 2 or any("up" not in p.read_text() for p in folder.glob("c*.log")):
        await asyncio.sleep(0.02)
    print("ready", children.launcher_pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_a_dead_driver_leaves_nothing(short: Path, number: signal.Signals) -> None:
    driver = python(DRIVER, short, str(short / "run"), NESTING, DAEMON)
    assert driver.stdout is not None
    assert driver.stdout.readline().startswith("ready")
    family = list(tree(driver.pid))
    assert len(family) == 5, "the launcher, two children, two grandchildren"
    driver.send_signal(number)
    driver.communicate(timeout=10)
    wait_until(lambda: not left(family), 10, "all dead")
    wait_until(lambda: not (short / "run").exists(), 5, "the run directory is gone")


def test_driver_and_launcher_killed_together_leave_no_child(short: Path) -> None:
    sleeper = "import time; print('up', flush=True); time.sleep(600)"
    driver = python(DRIVER, short, str(short / "run"), sleeper, sleeper)
    assert driver.stdout is not None
    launcher = int(driver.stdout.readline().split()[1])
    direct = list(tree(launcher))
    assert len(direct) == 2
    os.kill(launcher, signal.SIGSTOP)  # it must not see the driver's death
    driver.kill()
    driver.wait(10)
    os.kill(launcher, signal.SIGKILL)
    driver.communicate(timeout=10)
    wait_until(lambda: not left(direct), 10, "the children die with the launcher")


def environ_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def test_no_key_reaches_the_launcher_or_its_children(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("OPENAI_API_KEY", "HF_TOKEN", "my_secret", "DB_PASSWORD", "AWS_CREDENTIALS")
    for name in names:
        monkeypatch.setenv(name, "sk-canary")

    async def work() -> None:
        async with hosting(short) as host:
            await asyncio.sleep(0.3)
            environ = environ_of(host.children.launcher_pid)
            assert b"canary" not in environ
            assert not set(names) & set(scrubbed_environment())
            assert "PATH" in scrubbed_environment()

    run(work)
