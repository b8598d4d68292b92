"""Two runs at once: neither sees, signals, reads or starves the other.

Two launchers, keepers and jails, as two drivers of one machine have them.
"""

import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from distill.protocol.jail_link import Limits
from distill.protocol.sandbox_link import CellDone, JailReady
from tests.sandbox.conftest import MIB
from tests.sandbox.harness import Host
from tests.security.keepers import running_host

LIMITS = Limits(
    memory_bytes=256 * MIB,
    scratch_bytes=32 * MIB,
    scratch_inodes=1024,
    output_bytes=MIB,
    cell_s=60.0,
    grace_s=0.2,
    calls_per_cell=10**6,
)
GREEDY_LIMITS = replace(LIMITS, call_bytes=1000)
LEAST_SHARE = 0.4
"""Of its speed that a run keeps while its neighbour takes all it can; half is fair on two cores."""
ROUND_TRIPS = 300
PAIRS = 3
TRIES = 5
BUSY_SHARE = 0.15
"""Where others keep the machine busy, nobody can tell whose share is whose."""


@pytest.fixture(scope="module")
def left() -> Iterator[Host]:
    with running_host() as host:
        yield host


@pytest.fixture(scope="module")
def right() -> Iterator[Host]:
    with running_host() as host:
        yield host


@pytest.fixture
def both(left: Host, right: Host) -> tuple[Host, Host]:
    for host, text in ((left, "the left context"), (right, "the right context")):
        ready = host.open(LIMITS, context=text, functions={"f": lambda: None})
        assert isinstance(ready, JailReady), ready
    return left, right


def interpreter(host: Host) -> psutil.Process:
    """The process that runs the cells, seen from outside."""
    below = psutil.Process(host.launcher.pid).children(recursive=True)
    leaves = [p for p in below if p.pid != host.keeper_pid and not p.children()]
    assert len(leaves) == 1, leaves
    return leaves[0]


# -- seeing, signalling, reading


def test_each_is_alone_in_its_namespaces(both: tuple[Host, Host]) -> None:
    processes = [str(interpreter(host).pid) for host in both] + ["self"]
    for kind in ("pid", "net", "ipc", "mnt", "uts", "user", "cgroup"):
        seen = {Path(f"/proc/{process}/ns/{kind}").readlink() for process in processes}
        assert len(seen) == 3, f"{kind} is shared"


def test_each_has_a_uid_of_its_own_where_there_are_several(both: tuple[Host, Host]) -> None:
    uids = {interpreter(host).uids().real for host in both}
    assert len(uids) == (2 if os.geteuid() == 0 else 1)
    assert uids == {os.geteuid() if host.plan.uid is None else host.plan.uid for host in both}


def test_neither_can_signal_or_look_at_the_other(both: tuple[Host, Host]) -> None:
    left, right = both
    victim = interpreter(right)
    code = f"""
import os, time
def tried(attack):
    try: return attack()
    except OSError as error: return type(error).__name__
attacks = [
    lambda: os.kill({victim.pid}, 9),
    lambda: os.pidfd_open({victim.pid}),
    lambda: time.clock_gettime(~{victim.pid} << 3 | 2),
    lambda: os.kill(-1, 9),
    lambda: os.getpriority(os.PRIO_PROCESS, {victim.pid}),
]
print(os.getpid(), *map(tried, attacks))
"""
    assert left.printed(code) == "1" + 5 * " PermissionError" + "\n"
    assert victim.is_running()
    assert right.printed("import os; print(os.getpid())") == "1\n"


def test_neither_sees_the_files_of_the_other(both: tuple[Host, Host]) -> None:
    left, right = both
    writing = "open('/tmp/secret', 'w').write('left'); import os; print(os.listdir('/tmp'))"
    assert left.printed(writing) == "['secret']\n"
    assert right.printed("import os; print(os.listdir('/tmp'), os.path.exists('/dev/shm'))") == (
        "[] False\n"
    )


def test_neither_reads_the_context_of_the_other(both: tuple[Host, Host]) -> None:
    left, right = both
    assert left.printed("print(context)") == "the left context\n"
    assert right.printed("print(context)") == "the right context\n"


def test_neither_meets_the_other_on_a_socket(both: tuple[Host, Host]) -> None:
    """No socket can be made, and a pair's ends stay within."""
    left, right = both
    code = """
import socket
for family in (socket.AF_UNIX, socket.AF_INET):
    try: socket.socket(family); print('made')
    except PermissionError: print('denied')
"""
    for host in (left, right):
        assert host.printed(code) == "denied\ndenied\n"


def test_out_of_its_jail_one_could_still_not_touch_the_other(both: tuple[Host, Host]) -> None:
    """The uids are a wall of their own: here the attacker is on the host, with the left's uid."""
    left, right = both
    if left.plan.uid is None:
        pytest.skip("an ordinary user has one uid for both")
    victim = interpreter(right)
    folder = f"/proc/{victim.pid}"
    attacks = [f"kill -9 {victim.pid}", f"ls {folder}/root/", f"ls {folder}/fd/"]
    attacks += [f"head -c 1 {folder}/{name}" for name in ("mem", "environ", "maps")]
    for attack in attacks:
        told = subprocess.run(
            ["/bin/sh", "-c", attack], user=left.plan.uid, capture_output=True, check=False
        )
        assert told.returncode != 0, f"{attack} worked"
        assert b"ermission denied" in told.stderr or b"not permitted" in told.stderr, told.stderr
    assert victim.is_running()


# -- starving

GREEDY = {
    "CPU": "while True: pass",
    "CPU in four threads": (
        "import hashlib, threading\n"
        "def burn():\n    while True: hashlib.sha256(bytes(2**20))\n"
        "for _ in range(4): threading.Thread(target=burn, daemon=True).start()\nburn()"
    ),
    "memory": (
        "while True:\n    kept = []\n    try:\n        while True: kept.append(bytearray(2**20))\n"
        "    except MemoryError: pass"
    ),
    "disk": (
        "while True:\n    try:\n        with open('big', 'wb') as f:\n"
        "            while True: f.write(bytes(2**20))\n    except OSError: pass"
    ),
    "output": "while True: print('x' * 1000)",
    "frames": (
        "import msgpack, os\n"
        "body = msgpack.packb({'type': 'Output', 'stream': 'stdout', 'text': ''})\n"
        "data = (len(body).to_bytes(4, 'big') + body) * 1000\n"
        "while True: os.write({fd}, data)"
    ),
    "refused calls": "while True:\n    try: f('x' * 2**20)\n    except LimitError: pass",
}


CALLING = f"for _ in range({ROUND_TRIPS}): f()"
COMPUTING = "total = 0\nfor number in range(3_000_000): total += number * number"
WORK = {"CPU in four threads": COMPUTING}
"""What the neighbour does, if not calling: where more threads run than there are cores, a chain of
wakes measures the scheduler, which serves plain processes as unevenly (0.02 to 1.7 of their
speed); the share of the CPU is what can be promised."""


def seconds(host: Host, work: str) -> float:
    """Of some work, as the keeper's clock has them."""
    done = host.done(work)
    assert done.error is None, done.error.traceback
    return done.elapsed_s


def shares(left: Host, right: Host, greedy: str, work: str) -> list[float]:
    """Of its speed alone, what the right has beside a greedy left; several times, in turns."""
    found = []
    for _ in range(PAIRS):
        left.close_jail()
        alone_s = seconds(right, work)
        assert isinstance(left.open(GREEDY_LIMITS, functions={"f": lambda: None}), JailReady)
        left.start(greedy.replace("{fd}", str(left.plan.socket_fd)))
        time.sleep(0.2)
        found.append(alone_s / seconds(right, work))
    left.close_jail()
    return found


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=pytest.mark.slow) if "four" in each else each for each in GREEDY],
)
def test_a_run_at_its_limits_takes_no_more_than_its_share(
    left: Host, right: Host, name: str
) -> None:
    work = WORK.get(name, CALLING)
    assert isinstance(right.open(LIMITS, functions={"f": lambda: None}), JailReady)
    seconds(right, work)
    left.close_jail()
    others = psutil.cpu_percent(0.5) / 100
    least = max(LEAST_SHARE * (1 - others), BUSY_SHARE)
    found: list[float] = []
    for _ in range(TRIES):
        found += shares(left, right, GREEDY[name], work)
        if statistics.median(found) >= least:
            return
    pytest.fail(f"it had {statistics.median(found):.2f} of its speed: {found}")


def test_one_at_all_its_limits_leaves_the_other_all_of_its_own(both: tuple[Host, Host]) -> None:
    """Memory, scratch and output of the one are not taken from the other's."""
    left, right = both
    fill = """
import errno
kept = []
try:
    while True: kept.append(bytearray(2**20))
except MemoryError: kept.pop()
try:
    with open('big', 'wb') as f:
        while True: f.write(bytes(2**16))
except OSError as error: assert error.errno in (errno.ENOSPC, errno.EFBIG)
print(len(kept) > 150)
"""
    for host in (left, right):
        done = host.done(fill)
        assert isinstance(done, CellDone)
        assert done.stdout == "True\n", done
