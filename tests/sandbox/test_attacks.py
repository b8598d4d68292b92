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

CTYPES = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
CHECK = """
def check(result):
    if result == -1:
        import os
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""
RAW = CTYPES + CHECK

DENIED = {
    # files
    "read /etc/passwd": ("open('/etc/passwd')", "FileNotFoundError"),
    "read /root": ("import os; os.listdir('/root')", "FileNotFoundError"),
    "read /home": ("import os; os.listdir('/home')", "FileNotFoundError"),
    "read /proc/self/environ": ("open('/proc/self/environ')", "FileNotFoundError"),
    "read /sys": ("import os; os.listdir('/sys')", "FileNotFoundError"),
    "climb out by ..": ("open('/tmp/../../../../etc/shadow')", "FileNotFoundError"),
    "write to /": ("open('/x', 'w')", "OSError|PermissionError"),
    "write to /dev": ("open('/dev/x', 'w')", "OSError|PermissionError"),
    "write to the library": ("open('/python/lib/x', 'w')", "OSError|PermissionError"),
    "replace our own modules": (
        "open('/jail/distill/sandbox/jail/wire.py', 'w')",
        "OSError|PermissionError",
    ),
    "open a device": ("open('/dev/kmsg')", "FileNotFoundError"),
    "make a device node": (
        RAW + "check(libc.mknod(b'/tmp/sda', 0o60644, 0x800))",
        "PermissionError",
    ),
    "give a file away": (
        "import os; open('f', 'w').close(); os.chown('f', 0, 0)",
        "PermissionError",
    ),
    "reopen the filter for writing": ("open('/jail/filter.bpf', 'r+b')", "OSError|PermissionError"),
    # network
    "internet socket": ("import socket; socket.socket()", "PermissionError"),
    "internet 6 socket": ("import socket; socket.socket(socket.AF_INET6)", "PermissionError"),
    "unix socket": ("import socket; socket.socket(socket.AF_UNIX)", "PermissionError"),
    "netlink socket": (
        "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "PermissionError",
    ),
    "packet socket": (
        "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        "PermissionError",
    ),
    "vsock socket": ("import socket; socket.socket(socket.AF_VSOCK)", "PermissionError"),
    "sendmsg over the pair": (
        "import socket; a, b = socket.socketpair(); a.sendmsg([b'x'])",
        "PermissionError",
    ),
    "inet socketpair": (
        RAW + "check(libc.socketpair(2, 1, 0, (ctypes.c_int * 2)()))",
        "PermissionError",
    ),
    # processes and signals
    "execute": ("import os; os.execv('/python/bin/python3', ['python3'])", "PermissionError"),
    "fork": ("import os; os.fork()", "PermissionError"),
    "vfork": (RAW + "check(libc.syscall(58))", "PermissionError"),
    "subprocess": ("import subprocess; subprocess.run(['/python/bin/python3'])", "PermissionError"),
    "raw clone without CLONE_THREAD": (
        RAW + "check(libc.syscall(56, 17, 0, 0, 0, 0))",
        "PermissionError",
    ),
    "clone3": (RAW + "check(libc.syscall(435, 0, 0))", "OSError"),
    "ptrace": (RAW + "check(libc.ptrace(16, 2, 0, 0))", "PermissionError"),
    "kill a host process": ("import os; os.kill({host_pid}, 9)", "PermissionError"),
    "kill everybody": ("import os; os.kill(-1, 9)", "PermissionError"),
    "tgkill another": (
        RAW + "check(libc.syscall(234, {host_pid}, {host_pid}, 9))",
        "PermissionError",
    ),
    "pidfd of a host process": ("import os; os.pidfd_open({host_pid})", "PermissionError"),
    "limits of a host process": (
        "import resource; resource.prlimit({host_pid}, resource.RLIMIT_NOFILE)",
        "PermissionError",
    ),
    "read another's memory": (
        RAW + "check(libc.process_vm_readv({host_pid}, 0, 0, 0, 0, 0))",
        "PermissionError",
    ),
    "affinity of others": ("import os; os.sched_setaffinity({host_pid}, [0])", "PermissionError"),
    # kernel surface
    "mount": (RAW + "check(libc.mount(b'x', b'/tmp', b'tmpfs', 0, 0))", "PermissionError"),
    "unmount": (RAW + "check(libc.umount2(b'/tmp', 2))", "PermissionError"),
    "new user namespace": (RAW + "check(libc.unshare(0x10000000))", "PermissionError"),
    "chroot": ("import os; os.chroot('/tmp')", "PermissionError"),
    "become root": ("import os; os.setuid(0)", "PermissionError"),
    "regain capabilities": (
        RAW + "check(libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), "
        "(ctypes.c_uint32 * 6)(1 << 21, 1 << 21, 0, 0, 0, 0)))",
        "PermissionError",
    ),
    "bpf": (RAW + "check(libc.syscall(321, 0, 0, 0))", "PermissionError"),
    "io_uring": (RAW + "check(libc.syscall(425, 8, 0))", "PermissionError"),
    "userfaultfd": (RAW + "check(libc.syscall(323, 0))", "PermissionError"),
    "perf": (RAW + "check(libc.syscall(298, 0, 0, -1, -1, 0))", "PermissionError"),
    "keyring": (RAW + "check(libc.syscall(250, 0, -3, 0))", "PermissionError"),
    "open by handle": (RAW + "check(libc.syscall(304, -100, 0, 0))", "PermissionError"),
    "a looser filter": (RAW + "check(libc.prctl(22, 2, 0))", "PermissionError"),
    "host name": ("import socket; socket.sethostname('x')", "PermissionError"),
    "terminal injection": ("import fcntl; fcntl.ioctl(1, 0x5412, b'x')", "PermissionError"),
    "32-bit number space (x32)": (RAW + "check(libc.syscall(0x40000000 + 39))", "OSError"),
    # memory that RLIMIT_DATA does not count
    "memory file": ("import os; os.memfd_create('x')", "PermissionError"),
    "shared anonymous memory": ("import mmap; mmap.mmap(-1, 4096)", "PermissionError"),
    "shared read-only, to be made writable": (
        "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ)",
        "PermissionError",
    ),
    "growing stack mapping": ("import mmap; mmap.mmap(-1, 4096, flags=0x122)", "PermissionError"),
    "System V memory": (RAW + "check(libc.shmget(0, 4096, 0o1600))", "PermissionError"),
    "message queue": (RAW + "check(libc.syscall(240, b'/x', 0o102, 0o600, 0))", "PermissionError"),
    "a pipe of a megabyte": (
        "import fcntl, os; r, w = os.pipe(); fcntl.fcntl(w, 1031, 1 << 20)",
        "PermissionError",
    ),
    "raise the limit": (
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (1 << 40, 1 << 40))",
        "ValueError",
    ),
    # memory, disk, descriptors
    "memory bomb": ("x = bytearray(1 << 40)", "MemoryError"),
    "memory bomb in steps": ("x = []\nwhile True: x.append(bytearray(1 << 20))", "MemoryError"),
    "disk bomb": ("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))", "OSError"),
    "inode bomb": ("import os\nfor i in range(10**6): os.mkdir(str(i))", "OSError"),
    "descriptor bomb": ("import os\nk = []\nwhile True: k.append(os.dup(1))", "OSError"),
    "thread bomb": (
        (
            "import threading, time\nwhile True: "
            "threading.Thread(target=time.sleep, args=(2,), daemon=True).start()"
        ),
        "RuntimeError",
    ),
}


@pytest.mark.parametrize("name", DENIED)
def test_denied(jail: Host, name: str) -> None:
    code, expected = DENIED[name]
    done = jail.done(code.replace("{host_pid}", str(os.getpid())))
    assert done.error is not None, f"{name}: it worked"
    assert done.error.name in expected.split("|"), done.error.traceback
    # The denial cost nothing: the session goes on.
    assert jail.printed("print(6 * 7)") == "42\n"


def test_positive_controls(session: Host) -> None:
    """What an honest cell does works, or the denials above prove nothing."""
    code = """
import asyncio, concurrent.futures, os, shutil, socket, tempfile, threading
with open('note', 'w') as f: f.write('x')
shutil.copy2('note', 'copy')
with tempfile.NamedTemporaryFile() as f: f.write(b'x')
a, b = socket.socketpair(); a.send(b'ping'); assert b.recv(9) == b'ping'
with concurrent.futures.ThreadPoolExecutor(4) as pool: assert sum(pool.map(abs, [-1, 2])) == 3
assert asyncio.run(asyncio.sleep(0, 'x')) == 'x'
import json, re, math, collections, itertools, datetime, statistics, decimal, hashlib, ctypes
import csv, difflib, textwrap, unicodedata, zlib, sqlite3, dataclasses, functools, heapq, typing
assert sqlite3.connect(':memory:').execute('select 1').fetchone() == (1,)
assert len(os.urandom(8)) == 8
print(sorted(os.listdir('.')))
"""
    assert session.printed(code) == "['copy', 'note']\n"


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
