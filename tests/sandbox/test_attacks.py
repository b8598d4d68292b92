"""Attacks, a first set: each is run in a real jail and must meet exactly its denial.

The cell raises what the kernel said, so that "nothing happened" can't pass for "denied". The
positive controls show that the same calls work where they should.
"""

import json
import os
from pathlib import Path

import psutil
import pytest

from distill.protocol.jail_link import Limits
from distill.protocol.sandbox_link import JailLost, JailReady
from tests.sandbox.conftest import MIB, SMALL
from tests.sandbox.harness import Host


def test_environment_holds_no_secret(session: Host) -> None:
    printed = session.printed("import os, json; print(json.dumps(dict(os.environ)))")
    environment = json.loads(printed)
    assert "canary-secret" not in printed
    assert set(environment) <= {
        "HOME",
        "TMPDIR",
        "LC_ALL",
        "LD_LIBRARY_PATH",
        "MALLOC_ARENA_MAX",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "PYTHONHASHSEED",
        "PYTHONPATH",
        "PWD",
    }


def test_environment_of_bubblewrap_is_empty(jail: Host) -> None:
    pids = [
        p for p in psutil.Process(jail.launcher.pid).children(recursive=True) if "bwrap" in p.name()
    ]
    assert pids
    for process in pids:
        assert "canary" not in str(process.environ())


def test_own_uid_outside(jail: Host) -> None:
    inside = [
        p
        for p in psutil.Process(jail.launcher.pid).children(recursive=True)
        if p.status() != psutil.STATUS_ZOMBIE and p.pid != jail.keeper_pid
    ]
    assert len(inside) == 2  # bubblewrap and the interpreter
    assert {uid for p in inside for uid in p.uids()} == {jail.plan.uid or os.geteuid()}


def test_descriptors_inside(jail: Host) -> None:
    code = """
import os
found = []
for fd in range(64):
    try: os.fstat(fd); found.append(fd)
    except OSError: pass
print(found)
"""
    fds = set(json.loads(jail.printed(code)))
    # Input, the two printed streams and the files behind them, the socket, the context.
    assert {0, 1, 2, jail.plan.socket_fd} <= fds
    assert len(fds) <= 7
    assert jail.plan.status_fd not in fds
    assert not fds & set(jail.plan.blobs)


def test_the_context_can_not_be_changed(host: Host) -> None:
    host.open(SMALL, context="sealed")
    done = host.done(f"import os; os.write({host.plan.context_fd}, b'x')")
    assert done.error is not None
    assert host.printed("print(context)") == "sealed\n"


# -- what ends the jail: told as what it is, once, and the next jail works

KILLED = {
    "os._exit": ("import os; os._exit(3)", "exit", "status 3"),
    "segfault": ("import ctypes; ctypes.string_at(0)", "signal", "SIGSEGV"),
    "abort": ("import os; os.abort()", "signal", "SIG"),
    "wrong-arch-like kill": ("import os; os._exit(134)", "signal", "SIGABRT"),
    "endless loop that catches everything": (
        (
            "def spin():\n    while True: pass\n"
            "while True:\n    try: spin()\n    except BaseException: pass"
        ),
        "deadline",
        "cell_s",
    ),
    "sleep that catches everything": (
        "import time\nwhile True:\n    try: time.sleep(9)\n    except BaseException: pass",
        "deadline",
        "cell_s",
    ),
    "interrupt handler replaced": (
        "import signal; signal.signal(2, signal.SIG_IGN)\nwhile True: pass",
        "deadline",
        "cell_s",
    ),
}


@pytest.mark.parametrize("name", KILLED)
def test_killed(host: Host, name: str) -> None:
    code, cause, detail = KILLED[name]
    limits = Limits(
        cell_s=0.4, grace_s=0.3, output_bytes=MIB, calls_in_flight=8, memory_bytes=256 * MIB
    )
    assert isinstance(host.open(limits), JailReady)
    outcome = host.run("print('before')\n" + code)
    assert isinstance(outcome, JailLost), outcome
    assert outcome.cause == cause, outcome
    assert detail in outcome.detail, outcome
    assert outcome.cell == 1
    assert outcome.stdout.startswith("before\n")
    assert isinstance(host.open(SMALL), JailReady)
    assert host.printed("print(1)") == "1\n"


def test_cpu_behind_an_open_call_counts(host: Host) -> None:
    """A host call outstanding stops the wall clock, never the CPU clock."""
    limits = Limits(cell_s=0.5, grace_s=0.5)
    host.open(limits, functions={"slow": lambda: None})
    host.start(
        "import threading; threading.Thread(target=slow, daemon=True).start()\n"
        "def spin():\n    while True: pass\n"
        "while True:\n    try: spin()\n    except BaseException: pass"
    )
    host.receive()  # the call, never answered
    lost = host.finish()
    assert isinstance(lost, JailLost)
    assert lost.cause == "deadline"
    assert lost.cpu_s > 0.5


def test_threads_left_behind_are_held_to_the_clock(host: Host) -> None:
    host.open(Limits(cell_s=0.5, grace_s=0.5))
    done = host.done(
        "import threading\ndef spin():\n    while True: pass\n"
        "threading.Thread(target=spin, daemon=True).start()"
    )
    assert done.live_threads == 1
    lost = host.receive(10)
    assert isinstance(lost, JailLost)
    assert lost.cause == "deadline"


def test_nothing_is_left_on_the_host(jail: Host, tmp_path: Path) -> None:
    before = {p.name for p in Path("/tmp").iterdir()}
    jail.printed("open('/tmp/left-behind', 'w').write('x')")
    assert not Path("/tmp/left-behind").exists()
    jail.close_jail()
    assert not {
        name for name in {p.name for p in Path("/tmp").iterdir()} - before if "left" in name
    }
    children = psutil.Process(jail.launcher.pid).children(recursive=True)
    assert [c.pid for c in children] == [jail.keeper_pid]
