"""Attacks, a first set: each is run in a real jail and must meet exactly its denial.

The cell raises what the kernel said, so that "nothing happened" can't pass for "denied". The
positive controls show that the same calls work where they should.
"""

import json
import os
import queue
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from distill.protocol.jail_link import Limits
from distill.protocol.message import Shutdown
from distill.protocol.sandbox_link import CellDone, HostCall, JailLost, JailReady
from distill.sandbox.seal import MEMORY_BYTES
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
    "closing the socket": (
        "import os, time; os.close({fd}); time.sleep(60)",
        "protocol",
        "closed its socket",
    ),
    "output flood past the limits": (
        (
            "import os\n"
            "frame = FRAME({'type': 'Output', 'stream': 'stdout', 'text': 'x' * 500000})\n"
            "while True: os.write({fd}, frame)"
        ),
        "output",
        "bytes of output",
    ),
    "garbage": ("import os; os.write({fd}, b'\\x00\\x00\\x00\\x03abc')", "protocol", ""),
    "unknown message": ("SEND({'type': 'Shutdown'})", "protocol", "Shutdown"),
    "a message of the host's": ("SEND({'type': 'Reply', 'call': 1})", "protocol", "Reply"),
    "unknown field": (
        "SEND({'type': 'Output', 'stream': 'stdout', 'text': '', 'x': 1})",
        "protocol",
        "x",
    ),
    "wrong type of a field": (
        "SEND({'type': 'Output', 'stream': 'log', 'text': ''})",
        "protocol",
        "log",
    ),
    "oversized frame": ("import os; os.write({fd}, b'\\xff\\xff\\xff\\xff')", "protocol", "limit"),
    "empty frame": ("import os; os.write({fd}, bytes(4))", "protocol", ""),
    "deeply nested": (
        (
            "import os; b = b'\\x91' * 200000 + b'\\x90'\n"
            "os.write({fd}, len(b).to_bytes(4, 'big') + b)"
        ),
        "protocol",
        "",
    ),
    "nested a little too deep, in a small frame": (
        "x = []\nfor _ in range(500): x = [x]\nCALL(x)",
        "protocol",
        "DEPTH_LIMIT",
    ),
    "a frame of empty lists": (
        (
            "import os; b = b'\\xdd\\x00\\x80\\x00\\x00' + b'\\x90' * (8 << 20)\n"
            "b = len(b).to_bytes(4, 'big') + b\nwhile b: b = b[os.write({fd}, b):]"
        ),
        "protocol",
        "1000000 values (ELEMENT_LIMIT)",
    ),
    "an array of four billion, in five bytes": (
        "import os; os.write({fd}, b'\\x00\\x00\\x00\\x05\\xdd\\xff\\xff\\xff\\xff')",
        "protocol",
        "ELEMENT_LIMIT",
    ),
    "bytes in a call": ("CALL(b'x')", "protocol", "bytes"),
    "bytes, large, in a call": ("CALL([bytes(70_000)])", "protocol", "bytes"),
    "a key that is a number": ("CALL({'a': {1: 2}})", "protocol", "key"),
    "a key that is null": ("CALL({None: 2})", "protocol", "key"),
    "a key that is a big integer": (
        "import msgpack; CALL({msgpack.ExtType(1, b'9'): 2})",
        "protocol",
        "key",
    ),
    "bytes by keyword": ("CALL(1, {'k': [b'x']})", "protocol", "bytes"),
    "a time": ("import msgpack; CALL(msgpack.Timestamp(1, 2))", "protocol", "type 255"),
    "an extension": ("import msgpack; CALL(msgpack.ExtType(5, b'x'))", "protocol", "type 5"),
    "FINAL of a time": (
        "import msgpack; SEND({'type': 'Final', 'call': 1, 'value': msgpack.Timestamp(1)})",
        "protocol",
        "type 255",
    ),
    "FINAL of nan": (
        "SEND({'type': 'Final', 'call': 1, 'value': [float('nan')]})",
        "protocol",
        "not finite",
    ),
    "FINAL of minus infinity": (
        "SEND({'type': 'Final', 'call': 1, 'value': {'a': -float('inf')}})",
        "protocol",
        "not finite",
    ),
    "two messages in a frame": (
        "import os; os.write({fd}, b'\\x00\\x00\\x00\\x02\\x80\\x80')",
        "protocol",
        "byte 1 of 2",
    ),
    "Ready again": (
        (
            "SEND({'type': 'Ready', 'python': '3', 'filtered': True, 'context': 'none', "
            "'context_s': 0.0})"
        ),
        "protocol",
        "Ready",
    ),
    "Done of another cell": ("SEND({'type': 'Done', 'cell': 99})", "protocol", "99"),
    "a call's number again": (
        (
            "m = {'type': 'Call', 'call': 1, 'function': 'f', 'args': [], 'kwargs': {}}\n"
            "SEND(m); SEND(m)\nimport time; time.sleep(60)"
        ),
        "protocol",
        "not new",
    ),
    "too many calls in flight": (
        (
            "for i in range(1, 99):\n"
            "    SEND({'type': 'Call', 'call': i, 'function': 'f', 'args': [], 'kwargs': {}})\n"
            "import time; time.sleep(60)"
        ),
        "protocol",
        "in flight",
    ),
    "half a frame, then silence": (
        (
            "import os, time; os.write({fd}, b'\\x00\\x00\\x10\\x00half')\n"
            "while True:\n    try: time.sleep(60)\n    except BaseException: pass"
        ),
        "deadline",
        "cell_s",
    ),
    "a huge Done": (
        (
            "SEND({'type': 'Done', 'cell': 1, 'variables': "
            "[{'name': 'x', 'type': 'y', 'repr': 'z' * (9 << 20)}]})"
        ),
        "protocol",
        "Done",
    ),
    "negative number": ("SEND({'type': 'Done', 'cell': 1, 'open_calls': -5})", "protocol", ""),
}
FORGE = """
def FRAME(message):
    from distill.sandbox.jail import wire
    return wire.pack(message)
def SEND(message):
    import os
    os.write({fd}, FRAME(message))
def CALL(value, named={}):
    SEND({'type': 'Call', 'call': 1, 'function': 'f', 'args': [value], 'kwargs': named})
    import time; time.sleep(60)
"""


@pytest.mark.parametrize("name", KILLED)
def test_killed(host: Host, name: str) -> None:
    code, cause, detail = KILLED[name]
    limits = Limits(
        cell_s=0.4, grace_s=0.3, output_bytes=MIB, calls_in_flight=8, memory_bytes=256 * MIB
    )
    assert isinstance(host.open(limits, functions={"f": lambda: None}), JailReady)
    full = (FORGE + "print('before')\n" + code).replace("{fd}", str(host.plan.socket_fd))
    host.start(full)
    outcome = host.receive()
    while isinstance(outcome, HostCall):  # never answered
        outcome = host.receive()
    assert isinstance(outcome, JailLost), outcome
    assert outcome.cause == cause, outcome
    assert detail in outcome.detail, outcome
    assert outcome.cell == 1
    assert outcome.stdout.startswith("before\n")
    assert isinstance(host.open(SMALL), JailReady)
    assert host.printed("print(1)") == "1\n"


def test_done_forged_then_the_real_one(jail: Host) -> None:
    """A cell may end itself early by forging Done: it harms itself, the real one is illegal."""
    jail.start(
        (FORGE + "SEND({'type': 'Done', 'cell': 1})").replace("{fd}", str(jail.plan.socket_fd))
    )
    assert isinstance(jail.finish(), CellDone)
    lost = jail.receive()
    assert isinstance(lost, JailLost)
    assert lost.cause == "protocol"


def test_final_twice_is_the_hosts_to_judge(jail: Host) -> None:
    code = """
for value in ('first', 'second'):
    try: FINAL(value)
    except BaseException: pass
print('still here')
"""
    assert jail.printed(code) == "still here\n"
    assert jail.finals == ["first", "second"]


def test_a_call_that_is_too_large(jail: Host) -> None:
    jail.open(SMALL, functions={"f": len})
    done = jail.done("f('x' * (2 << 20))")
    assert done.error is not None
    assert done.error.name == "LimitError"
    assert "call_bytes" in done.error.message
    assert jail.printed("print(f('x' * 1000))") == "1000\n"


def test_too_many_calls_in_a_cell(jail: Host) -> None:
    jail.open(SMALL, functions={"f": lambda: 1})
    done = jail.done("n = 0\nwhile True: n += f()")
    assert done.error is not None
    assert done.error.name == "LimitError"
    assert "calls_per_cell" in done.error.message
    assert jail.printed("print(n)") == "50\n"


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


def test_memory_of_the_keeper_stays_bounded(jail: Host) -> None:
    jail.lost(
        (
            FORGE
            + """
import os
data = (60 << 20).to_bytes(4, 'big')
while True:
    os.write({fd}, data); data = bytes(1 << 20)
"""
        ).replace("{fd}", str(jail.plan.socket_fd))
    )
    assert psutil.Process(jail.keeper_pid).memory_info().rss < 400 * MIB


@pytest.mark.parametrize("size", [8 << 20, 60 << 20])
def test_a_frame_of_empty_lists_costs_nothing(jail: Host, size: int) -> None:
    """It would be 90 bytes here for each of its own, and in the driver once more."""
    jail.open(SMALL)  # its keeper may have grown for another test
    before = psutil.Process(jail.keeper_pid).memory_info().rss
    code = f"""
import os
size = {size}
head = b'\\x85\\xa4type\\xa4Call\\xa4call\\x01\\xa8function\\xa1f\\xa6kwargs\\x80\\xa4args'
head += b'\\xdd' + size.to_bytes(4, 'big')
os.write({{fd}}, (len(head) + size).to_bytes(4, 'big') + head)
part, size_left = b'\\x90' * (1 << 20), size
while size_left: size_left -= os.write({{fd}}, part[:size_left])
"""
    lost = jail.lost(code.replace("{fd}", str(jail.plan.socket_fd)))
    assert lost.cause == "protocol"
    assert "ELEMENT_LIMIT" in lost.detail
    grown = psutil.Process(jail.keeper_pid).memory_info().rss - before
    assert grown < 2 * size + 64 * MIB


def test_open_calls_share_one_limit_of_values(host: Host) -> None:
    """Each is allowed, all together are not: the driver would hold them all."""
    host.open(Limits(), functions={"f": len})
    host.start(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "data = [[]] * 400_000\n"
        "def one(_):\n    try: return f(data)\n    except LimitError as e: return str(e)\n"
        "with ThreadPoolExecutor(4) as pool: print(*pool.map(one, range(4)), sep='\\n')"
    )
    calls = [host.expect(HostCall), host.expect(HostCall)]
    with pytest.raises(queue.Empty):
        host.receive(3.0)
    for call in calls:
        host.answer(call)
    done = host.finish()
    assert isinstance(done, CellDone)
    assert done.stdout.count("400000\n") == 2
    assert done.stdout.count("all open calls together is 1000000\n") == 2


def test_the_keeper_has_a_memory_limit_of_its_own(jail: Host) -> None:
    limits = Path(f"/proc/{jail.keeper_pid}/limits").read_text()
    data = next(line for line in limits.splitlines() if line.startswith("Max data size"))
    assert data.split()[3:5] == [str(MEMORY_BYTES)] * 2


FLOODS = {
    "calls": (
        "n = 0\nwhile True:\n    n += 1\n"
        "    SEND({'type': 'Call', 'call': n, 'function': 'f', 'args': [[[]] * 900_000], "
        "'kwargs': {}})"
    ),
    "output": ("while True: SEND({'type': 'Output', 'stream': 'stdout', 'text': ''})"),
    "a reader that never reads": "import time\nwhile True: time.sleep(9)",
    "catches everything": "while True:\n    try:\n        while True: pass\n"
    "    except BaseException: pass",
}


@pytest.mark.parametrize("name", FLOODS)
def test_the_keeper_ends_at_shutdown_whatever_the_jail_does(name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="dst-") as folder:
        host = Host(Path(folder))
        try:
            limits = Limits(call_bytes=1000, calls_in_flight=10**6, calls_per_cell=10**6)
            host.open(limits, functions={"f": len})
            host.start((FORGE + FLOODS[name]).replace("{fd}", str(host.plan.socket_fd)))
            time.sleep(1.0)
            keeper = psutil.Process(host.keeper_pid)
            started = time.monotonic()
            host.send(Shutdown())
            keeper.wait(5.0)
            assert time.monotonic() - started < 2.0
        finally:
            host.close()


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
