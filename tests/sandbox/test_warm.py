"""A keeper and its jail stand by: for one run, whatever becomes of them, and leaving nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from distill.protocol.jail_link import Limits
from distill.repl import REPL
from distill.supervisor import background, driver, standby
from distill.traces.records import Event
from tests.supervisor.processes import below, environment, is_alive, tree, wait_until


class Machine:
    """This process's driver, and what can be seen of its processes from outside."""

    def __init__(self) -> None:
        self.host = driver.shared()
        self.heard: list[Event] = []
        self.host.on_event = self.heard.append

    def jails(self) -> set[int]:
        """The interpreters of the launcher's jails; not bubblewrap, not a keeper's probe."""
        found = set()
        with contextlib.suppress(psutil.NoSuchProcess):
            for outer in psutil.Process(self.host.children.launcher_pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if outer.name() == "bwrap":
                        found |= {inner.pid for inner in outer.children()}
        return found

    def keepers(self) -> set[int]:
        return set(below(self.host.children.launcher_pid, "distill.sandbox.keeper"))

    def expect_runs(self) -> None:
        self.on_loop(lambda: standby.of(self.host).expect_runs())

    def on_loop(self, function: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return function()

        return background.wait(call())

    def waiting(self, *others: int) -> int:
        """The pid of the one jail beside these, once it waits."""
        found: set[int] = set()

        def one_waits() -> bool:
            found.clear()
            found.update(self.jails() - set(others))
            return len(found) == 1 and all(map(is_asleep, found))

        wait_until(one_waits, 20, "a jail waits")
        return found.pop()

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event.detail for event in self.heard if event.event == name]


def is_asleep(pid: int) -> bool:
    """Whether a process waits and has used no time for a while."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        before = process.cpu_times()
        time.sleep(0.1)
        return process.status() == psutil.STATUS_SLEEPING and process.cpu_times() == before
    return False


def wait_gone(pid: int) -> None:
    wait_until(lambda: not is_alive(pid), 10, f"{pid} is gone")


@pytest.fixture
def machine() -> Iterator[Machine]:
    driver.shared().close()
    made = Machine()
    yield made
    launcher = made.host.children.launcher_pid
    family = [launcher, *tree(launcher)]
    made.host.close()
    wait_until(lambda: not any(map(is_alive, family)), 10, "nothing is left")
    assert not made.host.run_directory.exists()


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: a socket's path ends at 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="dst-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def repl(context: Any = "text", **primitives: Callable[..., Any]) -> REPL:
    return REPL(context, "q", lambda prompt: prompt, lambda prompts: prompts, 2000, primitives)


def test_a_run_takes_the_jail_that_waits_and_the_next_run_another(machine: Machine) -> None:
    machine.expect_runs()
    used: list[int] = []
    for number in range(3):
        waiting = machine.waiting()
        assert waiting not in used
        with repl(f"text ☃ {number}", add=lambda a, b: a + b) as run:
            printed = run.execute("print(context, query, add(1, 2))").stdout
            assert printed == f"text ☃ {number} q 3\n"
            following = machine.waiting(waiting)
            assert machine.jails() == {waiting, following}
            run.execute("mine = 1")
        used.append(waiting)
        wait_gone(waiting)
        with repl() as fresh:
            assert "NameError" in str(fresh.execute("mine").error)
        wait_gone(following)
        used.append(following)
    assert len(set(used)) == 6
    jails = [event["jail"] for event in machine.events("jail_ready")]
    assert len(set(jails)) == len(jails) == 6


def test_limits_and_names_come_with_the_run(machine: Machine) -> None:
    """Nothing of a jail is settled before its run: the one that waits knows no limit yet."""
    machine.expect_runs()
    waiting = machine.waiting()
    with repl(["a", 1]) as run:
        run.limits = msgspec.structs.replace(Limits(), memory_bytes=123 << 20, open_files=77)
        run.namespace["given"] = {"x": [1]}
        printed = run.execute(
            "import resource\n"
            "print(resource.getrlimit(resource.RLIMIT_DATA)[1], "
            "resource.getrlimit(resource.RLIMIT_NOFILE)[1], given, context)"
        ).stdout
        assert waiting in machine.jails()
    assert printed == f"{123 << 20} 77 {{'x': [1]}} ['a', 1]\n"


def test_nothing_stands_by_until_a_first_run_has_ended(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that asks one question and ends has started no process that it did not need."""
    monkeypatch.setattr(standby, "PAUSE_S", 1.5)
    with repl() as run:
        run.execute("1")
        assert len(machine.keepers()) == 1
        time.sleep(0.3)
        assert len(machine.keepers()) == 1
    wait_until(lambda: not machine.jails(), 10, "the first run's jail is gone")
    wait_until(lambda: not machine.keepers(), 10, "the first run's keeper is gone")
    machine.waiting()


@pytest.mark.parametrize("victim", ["jail", "keeper"])
def test_what_dies_while_it_waits_is_replaced(machine: Machine, victim: str) -> None:
    machine.expect_runs()
    waiting = machine.waiting()
    (keeper,) = machine.keepers()
    os.kill(waiting if victim == "jail" else keeper, signal.SIGKILL)
    wait_until(lambda: not is_alive(waiting) and not is_alive(keeper), 10, "both are gone")
    another = machine.waiting()
    assert another != waiting
    assert len(machine.keepers()) == 1
    lost = machine.events("standby_lost")
    assert len(lost) == 1, lost
    assert ("before it was used" if victim == "jail" else "keeper died") in lost[0]["why"]
    with repl() as run:
        assert run.execute("print(1)").stdout == "1\n"
        assert another in machine.jails()


def test_a_run_that_takes_a_jail_just_killed_gets_another(machine: Machine) -> None:
    machine.expect_runs()
    for _ in range(5):
        waiting = machine.waiting()
        # The launcher can't have told yet.
        os.kill(machine.host.children.launcher_pid, signal.SIGSTOP)
        os.kill(waiting, signal.SIGKILL)
        threading.Timer(0.2, os.kill, (machine.host.children.launcher_pid, signal.SIGCONT)).start()
        with repl() as run:
            assert run.execute("print(context)").stdout == "text\n"


def test_what_dies_again_and_again_is_left_to_the_next_run(machine: Machine) -> None:
    machine.expect_runs()
    for _ in range(standby.LOSSES_LIMIT):
        waiting = machine.waiting()
        os.kill(waiting, signal.SIGKILL)
        wait_gone(waiting)
    wait_until(lambda: not machine.keepers(), 10, "none is started again")
    time.sleep(0.5)
    assert not machine.keepers()
    assert len(machine.events("standby_lost")) == standby.LOSSES_LIMIT
    with repl() as run:
        assert run.execute("print(1)").stdout == "1\n"
        wait_until(lambda: len(machine.jails()) == 2, 20, "another stands by")


def test_the_launcher_dies_while_a_jail_waits(machine: Machine) -> None:
    machine.expect_runs()
    machine.waiting()
    family = tree(machine.host.children.launcher_pid)
    os.kill(machine.host.children.launcher_pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, family)), 10, "all die with it")
    wait_until(machine.host.lost.is_set, 10, "the driver has heard")
    with repl() as run:  # of a new driver
        assert run.execute("print(1)").stdout == "1\n"
    driver.shared().close()


def test_two_runs_at_once_get_different_jails(machine: Machine) -> None:
    machine.expect_runs()
    waiting = machine.waiting()
    runs = [repl(str(number)) for number in range(3)]
    printed: dict[int, str] = {}

    def work(number: int) -> None:
        code = "open('/tmp/mine', 'x').write(context); print(open('/tmp/mine').read())"
        printed[number] = runs[number].execute(code).stdout

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert printed == {number: f"{number}\n" for number in range(3)}
    wait_until(lambda: len(machine.jails()) == 4, 20, "three in use, one waits")
    assert waiting in machine.jails()
    for run in runs:
        run.close()
    wait_until(lambda: len(machine.jails()) == 1, 20, "one waits")


PROGRAM = """
import os, sys, time
from distill.repl import REPL
from distill.supervisor import driver, standby
for number in range(int(sys.argv[1])):
    with REPL("text", "q", print, print) as run:
        assert run.execute("print(context)").stdout == "text\\n"
    time.sleep(float(sys.argv[2]))
print(driver.shared().children.launcher_pid, flush=True)
if sys.argv[3] == "killed":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("end", ["ends", "killed"])
@pytest.mark.parametrize(("runs", "pause"), [("1", "0"), ("2", "1.0"), ("2", "0.3")])
def test_a_program_leaves_nothing(short: Path, runs: str, pause: str, end: str) -> None:
    """Whether it ends while nothing stands by, while it is being made, or while it waits."""
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, runs, pause, end],
        env={**environment(short), "PYTHONMARK": mark},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == (-signal.SIGKILL if end == "killed" else 0), ended.stderr
    assert ended.stderr == ""
    launcher = int(ended.stdout)
    wait_until(lambda: not is_alive(launcher), 10, "the launcher is gone")
    wait_until(lambda: not marked(mark), 10, "all it had started is gone")
    assert not list(short.glob("distill-*"))


def marked(mark: str) -> list[int]:
    """Processes with this in their environment; a jail dies with its launcher or is a child's."""
    found = []
    for process in psutil.process_iter():
        try:
            if mark in process.environ().values():
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found
