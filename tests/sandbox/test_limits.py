"""Each limit, when it is hit, is told by name and amount, in both tiers."""

import queue
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from distill.protocol.jail_link import Limits
from distill.protocol.sandbox_link import CellDone, HostCall, JailLost, JailReady
from tests.sandbox.conftest import MIB, SMALL
from tests.sandbox.harness import Host

TIERS = ("namespaces", "landlock")
MANY_FILES = "import os\nkept = []\nwhile True: kept.append(os.dup(1))"
MANY_THREADS = (
    "import threading\ngate = threading.Event()\n"
    "try:\n    while True: threading.Thread(target=gate.wait, daemon=True).start()\n"
    "finally: gate.set()"
)
IN_BOTH = {
    "memory at once": ("x = bytearray(1 << 40)", "memory_bytes = 256 MiB"),
    "memory in steps": (
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "memory_bytes = 256 MiB",
    ),
    "memory by mapping": (
        "import mmap; mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)",
        "memory_bytes = 256 MiB",
    ),
    "open files": (MANY_FILES, "open_files = 64"),
    "threads": (MANY_THREADS, "threads = 16, memory_bytes = 256 MiB"),
    "calls per cell": ("while True: echo(1)", "calls_per_cell = 50"),
    "bytes of a call": ("echo('x' * (1 << 20))", "call_bytes = 1 MiB"),
}
WITH_SCRATCH = {
    "bytes of one file": (
        "f = open('f', 'wb')\nwhile True: f.write(bytes(1 << 20))",
        "scratch_bytes = 16 MiB",
    ),
    "bytes of many files": (
        "for n in range(99): open(str(n), 'wb').write(bytes(1 << 20))",
        "scratch_bytes = 16 MiB",
    ),
    "bytes of a sparse file": (
        "f = open('f', 'wb'); f.truncate(1 << 40)",
        "scratch_bytes = 16 MiB",
    ),
    "inodes": ("import os\nfor n in range(999): os.mkdir(str(n))", "scratch_inodes = 256"),
}
NONE = "scratch_bytes = 0 bytes, so that no file can be made"
WITHOUT_SCRATCH = {
    "a file": ("open('f', 'w')", NONE),
    "a temporary file": ("import tempfile; tempfile.TemporaryFile()", NONE),
    "a folder": ("import os; os.mkdir('d')", NONE),
    "printing past sys": (
        "import os\nwhile True: os.write(1, bytes(1 << 16))",
        "output_bytes = 1 MiB",
    ),
}


@pytest.fixture(scope="module", params=TIERS)
def tier(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host whose jails are of this tier."""
    with tempfile.TemporaryDirectory(prefix="dst-") as folder:
        host = Host(Path(folder), request.param)
        assert host.plan.tier == request.param
        yield host
        host.close()


@pytest.fixture
def jail(tier: Host) -> Host:
    """A fresh jail with small limits."""
    return with_limits(tier, SMALL)


def with_limits(host: Host, limits: Limits) -> Host:
    """A fresh jail with these."""
    ready = host.open(limits, functions={"echo": lambda value: value})
    assert isinstance(ready, JailReady), ready
    return host


def check(jail: Host, code: str, told: str) -> None:
    """The error's last line says it, and the session goes on."""
    done = jail.done(code)
    assert done.error is not None
    assert told in done.error.traceback.splitlines()[-1], done.error.traceback
    assert jail.printed("print(6 * 7)") == "42\n"


@pytest.mark.parametrize("name", IN_BOTH)
def test_told(jail: Host, name: str) -> None:
    check(jail, *IN_BOTH[name])


@pytest.mark.parametrize(
    ("tier", "name"), [("namespaces", name) for name in WITH_SCRATCH], indirect=["tier"]
)
def test_told_of_the_scratch_folder(jail: Host, name: str) -> None:
    check(jail, *WITH_SCRATCH[name])


@pytest.mark.parametrize(
    ("tier", "name"), [("landlock", name) for name in WITHOUT_SCRATCH], indirect=["tier"]
)
def test_told_where_there_is_no_scratch_folder(jail: Host, name: str) -> None:
    check(jail, *WITHOUT_SCRATCH[name])


def test_an_error_that_is_no_limit_names_none(jail: Host) -> None:
    for code in ("1 / 0", "raise RuntimeError('threads')", "raise OSError(5, 'x')"):
        done = jail.done(code)
        assert done.error is not None
        assert "limit" not in done.error.traceback


def test_a_limit_hit_in_a_thread_is_told(jail: Host) -> None:
    done = jail.done(
        "import threading\nt = threading.Thread(target=lambda: bytearray(1 << 40))\n"
        "t.start(); t.join()"
    )
    assert "(limit: memory_bytes = 256 MiB)" in done.stderr


def test_output(jail: Host) -> None:
    done = jail.done("print('x' * 3_000_000)")
    assert done.dropped_bytes == 3_000_001 - MIB
    assert (
        done.stderr == f"{done.dropped_bytes} bytes were not kept (limit: output_bytes = 1 MiB)\n"
    )


def test_the_time_of_a_cell(tier: Host) -> None:
    jail = with_limits(tier, msgspec.structs.replace(SMALL, cell_s=0.5))
    check(jail, "while True: pass", "(limit: cell_s = 0.5 s)")


def test_the_time_of_a_cell_that_does_not_stop(tier: Host) -> None:
    jail = with_limits(tier, msgspec.structs.replace(SMALL, cell_s=0.3, grace_s=0.3))
    lost = jail.lost(
        "def spin():\n    while True: pass\n"
        "while True:\n    try: spin()\n    except BaseException: pass"
    )
    assert lost.cause == "deadline"
    assert "did not stop within 0.3 s" in lost.detail
    assert "(limit: cell_s = 0.3 s)" in lost.detail


def test_the_time_of_a_run(tier: Host) -> None:
    """The cell's own limit is far; what earlier cells have used counts."""
    jail = with_limits(tier, msgspec.structs.replace(SMALL, run_s=1.0, grace_s=10.0))
    assert jail.done("import time; time.sleep(0.6)").error is None
    done = jail.done("while True: pass")
    assert done.error is not None
    assert done.error.traceback.endswith("(limit: run_s = 1 s)\n")
    assert done.elapsed_s < 2.0


def test_calls_in_flight_wait_for_their_turn(tier: Host) -> None:
    tier.open(msgspec.structs.replace(SMALL, calls_in_flight=3), functions={"f": lambda: 1})
    tier.start(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool: print(sum(pool.map(lambda _: f(), range(8))))"
    )
    calls = [tier.expect(HostCall) for _ in range(3)]
    with pytest.raises(queue.Empty):
        tier.receive(0.5)
    for call in calls:
        tier.answer(call)
    done = tier.finish()
    assert isinstance(done, CellDone)
    assert done.stdout == "8\n"


def test_calls_in_flight_that_are_forged(tier: Host) -> None:
    jail = with_limits(tier, SMALL)
    tier.functions["echo"] = lambda value: value
    jail.start(
        "import msgpack, os\n"
        "for n in range(1, 10):\n"
        "    body = msgpack.packb({'type': 'Call', 'call': n, 'function': 'echo', 'args': [], "
        "'kwargs': {}})\n"
        f"    os.write({jail.plan.socket_fd}, len(body).to_bytes(4, 'big') + body)\n"
        "import time; time.sleep(9)"
    )
    message = jail.receive()
    while isinstance(message, HostCall):
        message = jail.receive()
    assert isinstance(message, JailLost)
    assert "(limit: calls_in_flight = 8)" in message.detail


def test_memory_that_the_context_does_not_fit(tier: Host) -> None:
    limits = msgspec.structs.replace(SMALL, memory_bytes=48 * MIB)
    lost = tier.open(limits, context=[0] * (4 * MIB))
    assert isinstance(lost, JailLost)
    assert "does not fit (limit: memory_bytes = 48 MiB)" in lost.detail
