"""The Landlock tier: where namespaces are forbidden, as root and as a user, on an old kernel.

The attacks are what namespaces and mounts would have stopped. Each is made in a jail whose
Landlock is held to ABI 1, and must meet the named errno; without a jail each succeeds.
"""

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from distill.protocol.sandbox_link import JailPlan, JailReady
from distill.sandbox import plan, probe
from tests.sandbox import container, ordinary, variants
from tests.sandbox.conftest import SMALL
from tests.sandbox.harness import Host

AS_USER = ordinary.prefix()
ARRANGEMENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a user": ("landlock", AS_USER),
    "a user in a container": ("auto", (*AS_USER, *container.prefix())),
}
"""Who wants which tier, and is run by what."""
if os.geteuid() == 0:
    ARRANGEMENTS |= {
        "root": ("landlock", ()),
        "root in a container": ("auto", container.prefix()),
    }


@dataclass(frozen=True)
class Attack:
    """``{file}`` and ``{folder}`` are open to the jail's uid, ``{pid}`` is a process of its uid."""

    code: str
    denied: int


RAW = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""
ATTACKS = {
    # files, by path
    "read": Attack("open({file!r}).read()", errno.EACCES),
    "write": Attack("open({file!r}, 'r+').write('x')", errno.EACCES),
    "append": Attack("open({file!r}, 'a').write('x')", errno.EACCES),
    "truncate by opening": Attack("open({file!r}, 'w')", errno.EACCES),
    "truncate by opening to read": Attack(
        "import os; os.open({file!r}, os.O_RDONLY | os.O_TRUNC)", errno.EPERM
    ),
    "truncate by the fourth access mode": Attack(
        "import os; os.open({file!r}, 3 | os.O_TRUNC)", errno.EPERM
    ),
    "open for ioctl only": Attack("import os; os.open({file!r}, 3)", errno.EPERM),
    "truncate by path": Attack("import os; os.truncate({file!r}, 0)", errno.EPERM),
    "reopen a path descriptor": Attack(
        "import os; fd = os.open({file!r}, os.O_PATH); open(f'/proc/self/fd/{{fd}}').read()",
        errno.EACCES,
    ),
    "open below a path descriptor": Attack(
        "import os; fd = os.open({folder!r}, os.O_PATH)\nos.open('canary', os.O_RDONLY, dir_fd=fd)",
        errno.EACCES,
    ),
    "list": Attack("import os; os.listdir({folder!r})", errno.EACCES),
    "create": Attack("open({folder!r} + '/new', 'x')", errno.EACCES),
    "create without a name": Attack(
        "import os; os.open({folder!r}, os.O_TMPFILE | os.O_RDWR, 0o600)", errno.EACCES
    ),
    "remove": Attack("import os; os.unlink({file!r})", errno.EPERM),
    "rename": Attack("import os; os.rename({file!r}, {file!r} + '2')", errno.EPERM),
    "hard link": Attack("import os; os.link({file!r}, {file!r} + '2')", errno.EPERM),
    "symbolic link": Attack("import os; os.symlink('/', {folder!r} + '/s')", errno.EPERM),
    "make a folder": Attack("import os; os.mkdir({folder!r} + '/d')", errno.EPERM),
    "make a pipe": Attack("import os; os.mkfifo({folder!r} + '/p')", errno.EPERM),
    "change the mode": Attack("import os; os.chmod({file!r}, 0o666)", errno.EPERM),
    "change the mode by descriptor": Attack(
        "import os; fd = os.open({staged!r}, 0); os.fchmod(fd, os.fstat(fd).st_mode & 0o777)",
        errno.EPERM,
    ),
    "change the owner": Attack("import os; os.chown({file!r}, -1, -1)", errno.EPERM),
    "change the times": Attack("import os; os.utime({file!r}, (1, 1))", errno.EPERM),
    "set an attribute": Attack("import os; os.setxattr({file!r}, 'user.x', b'')", errno.EPERM),
    "lock a file that others read": Attack(
        "import fcntl; fcntl.flock(open({staged!r}), fcntl.LOCK_EX | fcntl.LOCK_NB)", errno.EPERM
    ),
    "lock a part of it": Attack(
        "import fcntl; fcntl.lockf(open({staged!r}), fcntl.LOCK_SH | fcntl.LOCK_NB)", errno.EPERM
    ),
    # other processes of the same uid
    "another's environment": Attack("open('/proc/{pid}/environ', 'rb').read()", errno.EACCES),
    "another's memory": Attack("open('/proc/{pid}/mem', 'rb')", errno.EACCES),
    "another's program": Attack("import os; os.readlink('/proc/{pid}/exe')", errno.EACCES),
    "the list of processes": Attack("import os; os.listdir('/proc')", errno.EACCES),
    "signal": Attack("import os; os.kill({pid}, 0)", errno.EPERM),
    "signal to the group": Attack("import os; os.killpg({pid}, 0)", errno.EPERM),
    "signal to a thread": Attack(RAW + "check(libc.syscall(234, {pid}, {pid}, 0))", errno.EPERM),
    "signal by thread id alone": Attack(RAW + "check(libc.syscall(200, {pid}, 0))", errno.EPERM),
    "process descriptor": Attack("import os; os.pidfd_open({pid})", errno.EPERM),
    "limits of another": Attack(
        "import resource; resource.prlimit({pid}, resource.RLIMIT_CORE)", errno.EPERM
    ),
    "affinity of another": Attack("import os; os.sched_getaffinity({pid})", errno.EPERM),
    "change another's affinity": Attack(
        "import os; os.sched_setaffinity({pid}, {{0, 1}})", errno.EPERM
    ),
    "scheduler of another": Attack("import os; os.sched_getscheduler({pid})", errno.EPERM),
    "priority of another": Attack("import os; os.getpriority(os.PRIO_PROCESS, {pid})", errno.EPERM),
    "change another's priority": Attack(
        "import os; os.setpriority(os.PRIO_PROCESS, {pid}, 19)", errno.EPERM
    ),
    "group of another": Attack("import os; os.getpgid({pid})", errno.EPERM),
    "session of another": Attack("import os; os.getsid({pid})", errno.EPERM),
    "another group": Attack("import os; os.setpgid(0, 0)", errno.EPERM),
    "CPU clock of another": Attack("import time; time.clock_gettime(~{pid} << 3 | 2)", errno.EPERM),
    "a timer on another's CPU clock": Attack(
        RAW + "check(libc.syscall(222, ~{pid} << 3 | 2, None, ctypes.byref(ctypes.c_int())))",
        errno.EPERM,
    ),
    "robust list of another": Attack(
        RAW + "p = (ctypes.c_long * 2)()\n"
        "check(libc.syscall(274, {pid}, ctypes.byref(p), ctypes.byref(p, 8)))",
        errno.EPERM,
    ),
    "read another's memory": Attack(
        RAW + "check(libc.process_vm_readv({pid}, 0, 0, 0, 0, 0))", errno.EPERM
    ),
    # sockets
    "connect by name": Attack(
        "import socket; socket.socket(socket.AF_UNIX).connect({socket!r})", errno.EPERM
    ),
    "internet": Attack("import socket; socket.socket()", errno.EPERM),
}


def _as(uid: int) -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    return {"user": uid, "group": uid, "extra_groups": []}


class Field:
    """What an attack aims at: open to everybody on the host, owned by the jail's uid."""

    def __init__(self, uid: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dst-field-"))
        self.folder.chmod(0o777)
        self.uid = uid
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.folder / "socket"))
        self._listener.listen()
        (self.folder / "socket").chmod(0o777)
        self.victim = subprocess.Popen(["sleep", "1000"], process_group=0, **_as(uid))
        self.canary = self.folder / "canary"

    def renew(self) -> None:
        """The canary as it was."""
        self.canary.unlink(missing_ok=True)
        self.canary.write_text("canary")
        self.canary.chmod(0o666)
        if os.geteuid() == 0:
            os.chown(self.canary, self.uid, self.uid)

    def is_untouched(self) -> bool:
        """Nothing has changed in it."""
        status = self.canary.stat()
        return (
            {path.name for path in self.folder.iterdir()} == {"canary", "socket"}
            and self.canary.read_text() == "canary"
            and (status.st_mode & 0o777, status.st_mtime > 1000) == (0o666, True)
            and self.victim.poll() is None
            and os.getpriority(os.PRIO_PROCESS, self.victim.pid) == 0
        )

    def code(self, attack: Attack, found: JailPlan) -> str:
        """The attack's code with its aims filled in."""
        return attack.code.format(
            file=str(self.canary),
            folder=str(self.folder),
            pid=self.victim.pid,
            socket=str(self.folder / "socket"),
            staged=found.argv[0],
        )

    def close(self) -> None:
        """Remove it."""
        self._listener.close()
        self.victim.kill()
        self.victim.wait()
        shutil.rmtree(self.folder)


def jail_uid(found: JailPlan, under: tuple[str, ...]) -> int:
    """Whose rights its cells have."""
    if under[: len(AS_USER)] == AS_USER and AS_USER:
        return ordinary.uid()
    return found.uid if found.uid is not None else os.geteuid()


@contextlib.contextmanager
def arranged(sandbox: str, under: tuple[str, ...]) -> Iterator[tuple[Host, Field]]:
    """A host that wants this tier, with its field."""
    with tempfile.TemporaryDirectory(prefix="dst-") as folder:
        host = Host(Path(folder), sandbox, under)
        field = Field(jail_uid(host.plan, under))
        try:
            yield host, field
        finally:
            field.close()
            host.close()


@pytest.fixture(scope="module", params=ARRANGEMENTS)
def old(request: pytest.FixtureRequest) -> Iterator[tuple[Host, Field]]:
    """A jail of the Landlock tier as on Linux 5.13."""
    with arranged(*ARRANGEMENTS[request.param]) as (host, field):
        assert host.plan.tier == "landlock"
        shared = Path(tempfile.mkdtemp(prefix="dst-old-"))
        shared.chmod(0o755)
        host.plan = variants.with_landlock(host.plan, 1, shared)
        assert isinstance(host.open(SMALL), JailReady)
        yield host, field
        shutil.rmtree(shared)


@pytest.fixture(scope="module")
def bare() -> Iterator[tuple[Host, Field]]:
    """No jail."""
    with arranged("none", AS_USER) as (host, field):
        assert host.plan.tier == "none"
        assert isinstance(host.open(SMALL), JailReady)
        yield host, field


@pytest.mark.parametrize("name", ATTACKS)
def test_denied(old: tuple[Host, Field], name: str) -> None:
    host, field = old
    field.renew()
    done = host.done(field.code(ATTACKS[name], host.plan))
    assert done.error is not None, f"{name}: it worked"
    assert f"[Errno {ATTACKS[name].denied}]" in done.error.message, done.error.traceback
    assert field.is_untouched()


@pytest.mark.parametrize("name", ATTACKS)
def test_without_a_jail_it_works(bare: tuple[Host, Field], name: str) -> None:
    host, field = bare
    field.renew()
    shutil.rmtree(field.folder / "d", ignore_errors=True)
    for left in ("new", "s", "p", "canary2"):
        (field.folder / left).unlink(missing_ok=True)
    assert host.printed(field.code(ATTACKS[name], host.plan)) is not None


# -- which tier, and why


MAKE = """
import sys
from distill.sandbox import plan
found = plan.make(sys.argv[1])
print(type(found).__name__, getattr(found, "tier", ""))
print(*getattr(found, "notes", None) or (*found.tried, found.remedy), sep="\\n")
"""


def made(wanted: str, *under: str) -> tuple[str, str]:
    """What the planner says there: type and tier, and the rest."""
    told = subprocess.run(
        [*under, sys.executable, "-c", MAKE, wanted],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ).stdout
    kind, _, rest = told.partition("\n")
    return kind.strip(), rest


def test_in_a_container_the_second_tier_says_why_not_the_first() -> None:
    kind, notes = made("auto", *container.prefix())
    assert kind == "JailPlan landlock"
    assert "no namespaces: bwrap: " in notes
    assert "no scratch folder" in notes


def test_namespaces_that_are_wanted_never_become_less() -> None:
    kind, told = made("namespaces", *container.prefix())
    assert kind == "NoJail"
    assert "namespaces: bwrap: " in told
    assert "--security-opt" in told


def test_where_both_are_forbidden_it_refuses_and_says_all() -> None:
    kind, told = made("auto", *container.prefix(landlock=False))
    assert kind == "NoJail"
    assert "namespaces: bwrap: " in told
    assert "landlock: Landlock: the container's seccomp profile forbids its system calls" in told
    assert "Or: Landlock needs Linux 5.13" in told


def test_no_variable_of_the_environment_lowers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISTILL_SANDBOX", "SANDBOX", "DISTILL_TIER", "DISTILL_NO_SANDBOX"):
        monkeypatch.setenv(name, "none")
    assert made("auto", *container.prefix())[0] == "JailPlan landlock"


def test_the_best_tier_is_taken_where_it_works() -> None:
    kind, notes = made("auto")
    assert kind == "JailPlan namespaces"
    assert "no namespaces" not in notes


WEAK = {
    "no file outside is read": ("/etc",),
    "no folder outside is listed": ("/",),
    "no process is looked into": ("/proc",),
}


@pytest.mark.parametrize("check", WEAK)
def test_a_jail_that_does_not_hold_is_refused(check: str) -> None:
    found = plan.make("landlock")
    assert isinstance(found, JailPlan), found
    at = found.argv.index("landlock") + 2
    weak = (*found.argv[:at], *WEAK[check], *found.argv[at:])
    with pytest.raises(probe.ProbeError, match=check):
        probe.run(msgspec.structs.replace(found, argv=weak))


def test_a_jail_without_landlock_does_not_start(tmp_path: Path) -> None:
    """The planner asks first; the jail does not rely on it."""
    found = plan.make("landlock")
    assert isinstance(found, JailPlan), found
    with pytest.raises(probe.ProbeError, match="its step 'landlock' failed"):
        probe.run(variants.with_landlock(found, 0, shared(tmp_path)))


@pytest.mark.parametrize("abi", [0, 1, 3])
def test_namespaces_do_not_need_landlock(abi: int, tmp_path: Path) -> None:
    found = plan.make("namespaces")
    assert isinstance(found, JailPlan), found
    probe.run(variants.with_landlock(found, abi, shared(tmp_path)))


def shared(path: Path) -> Path:
    """The folder, to which the jail's uid can come."""
    for folder in (path, *path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    return path


# -- ordinary work in it


@pytest.fixture
def jail(old: tuple[Host, Field]) -> Host:
    """A fresh jail of the Landlock tier."""
    host, _ = old
    ready = host.open(SMALL, context="the context ☃", functions={"echo": lambda value: value})
    assert isinstance(ready, JailReady), ready
    return host


def test_an_honest_program_works(jail: Host) -> None:
    code = """
import asyncio, concurrent.futures, os, socket, threading
a, b = socket.socketpair(); a.send(b'ping'); assert b.recv(9) == b'ping'
with concurrent.futures.ThreadPoolExecutor(4) as pool: assert sum(pool.map(abs, [-1, 2])) == 3
assert asyncio.run(asyncio.sleep(0, 'x')) == 'x'
import json, re, math, collections, itertools, datetime, statistics, decimal, hashlib, ctypes
import csv, difflib, textwrap, unicodedata, zlib, sqlite3, dataclasses, functools, heapq, typing
assert sqlite3.connect(':memory:').execute('select 1').fetchone() == (1,)
assert len(os.urandom(8)) == 8 and open('/dev/urandom', 'rb').read(1)
assert os.getpgid(0) == os.getpgid(os.getpid()) and os.sched_getaffinity(0)
os.write(1, b'past sys\\n'); print(echo(context)); print('x', file=open(os.devnull, 'w'))
print(threading.active_count())
"""
    assert jail.printed(code.replace("\\\\", "\\")) == "past sys\nthe context ☃\n1\n"


def test_it_is_interrupted(jail: Host) -> None:
    jail.open(msgspec.structs.replace(SMALL, cell_s=0.3))
    done = jail.done("while True: pass")
    assert done.error is not None
    assert done.error.name == "KeyboardInterrupt"
    assert jail.printed("print(1)") == "1\n"


def test_it_signals_itself_only(jail: Host) -> None:
    lost = jail.lost("import signal; signal.raise_signal(signal.SIGUSR1)")
    assert (lost.cause, "SIGUSR1" in lost.detail) == ("signal", True)


def test_printing_past_sys_is_bounded(jail: Host) -> None:
    done = jail.done("import os\nwhile True: os.write(1, bytes(1 << 16))")
    assert done.error is not None
    assert "[Errno 27]" in done.error.message
    assert len(done.stdout) <= SMALL.output_bytes


def test_nothing_is_left_of_it(jail: Host) -> None:
    jail.close_jail()
    children = psutil.Process(jail.launcher.pid).children(recursive=True)
    assert [child.pid for child in children] == [jail.keeper_pid]


def test_it_dies_with_the_launcher() -> None:
    with tempfile.TemporaryDirectory(prefix="dst-") as folder:
        host = Host(Path(folder), "landlock")
        host.open(SMALL)
        family = psutil.Process(host.launcher.pid).children(recursive=True)
        assert len(family) == 2  # the keeper and the interpreter
        host.launcher.kill()
        gone, alive = psutil.wait_procs(family, timeout=5)
        assert (len(gone), alive) == (2, [])
        host.close()
