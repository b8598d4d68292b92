"""The jail closes behind the interpreter: scratch, limits, Landlock, privileges, filter.

Each step is its own function; ``close_behind`` is their order. Any failure ends the process
with the exit status of its step: a jail that is not shut runs nothing.

There are two ways, by tier. With namespaces the files are what was mounted, and a scratch folder,
bounded in bytes and inodes, is mounted here. With Landlock alone nothing can be mounted, so
nothing could bound such a folder: no file can be made, and the limits say 0.
"""

from __future__ import annotations

import ctypes
import os
import resource

from distill.sandbox.jail import landlock

TYPE_CHECKING = False  # importing typing would double the time to start
if TYPE_CHECKING:
    from typing import Any

    from distill.sandbox.jail.wire import Wire

SCRATCH = "/tmp"  # noqa: S108  (inside the jail; mounted by us, seen by nobody else)
STAGED = __file__.rsplit("/", 4)[0]
"""The folder of our own staged files."""
FILTERS = {"namespaces": f"{STAGED}/filter.bpf", "landlock": f"{STAGED}/filter-alone.bpf"}
DEVICES = ("/dev/null", "/dev/urandom")
"""Not /dev/zero: a shared mapping of it is memory that RLIMIT_DATA does not count."""
OWN_PID = 0x7FED_CBA9
"""What stands for this process's pid in the filter's file (distill.sandbox.seccomp)."""
AS_SLACK_BYTES = 1 << 30
RESERVE_BYTES = 16 << 20
"""Kept from cells: one that fills its memory must still be told about, and the next one heard."""
STACK_BYTES = 16 << 20
THREAD_STACK_BYTES = 2 << 20
PENDING_SIGNALS = 256
"""Queued signals: kernel memory that nothing else bounds."""
PRINTED = (1, 2)
"""The descriptors that are printed to."""
F_SETFL = 4
MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_GET_SECCOMP = 22, 38, 21
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x2008_0522

STEP_STATUS = {
    "scratch": 91,
    "limits": 92,
    "privileges": 93,
    "filter": 94,
    "context": 95,
    "landlock": 97,
}
"""Exit statuses by which the keeper tells what could not be done."""
MEMORY_STATUS = 96
"""Exit status when not even the reserve was enough."""

libc = ctypes.CDLL(None, use_errno=True)


class StepError(OSError):
    """A step of the confinement failed; ``status`` is the process's exit status."""

    def __init__(self, step: str) -> None:
        code = ctypes.get_errno()
        super().__init__(code, f"{step}: {os.strerror(code)}")
        self.status = STEP_STATUS[step]


def close_behind(tier: str, readable: list[str], limits: Wire, context_bytes: int) -> None:
    """Shut the jail by its tier. Raises StepError; afterwards cells may run.

    ``limits`` are changed to what holds. ``readable`` are the folders of the Landlock tier.
    Nothing is shut in tier "none", which only an explicit argument gets.
    """
    if tier == "namespaces":
        _mount_scratch(limits["scratch_bytes"], limits["scratch_inodes"])
        _set_limits(limits, context_bytes, limits["threads"])
        landlock.restrict(libc, readable=("/",), writable=(SCRATCH, "/dev/null"))
    else:
        _go_without_scratch(limits)
        _set_limits(limits, context_bytes, limits["threads"] + _tasks_of_user())
    if tier == "landlock" and not landlock.restrict(
        libc, readable=(*readable, *DEVICES), writable=("/dev/null",)
    ):
        raise StepError("landlock")
    if tier != "none":
        drop_privileges()
        _install_filter(FILTERS[tier])


def _mount_scratch(size_bytes: int, inodes: int) -> None:
    """A tmpfs bounded in bytes and in inodes: bubblewrap's own knows only bytes."""
    options = f"size={size_bytes},nr_inodes={inodes},mode=0700".encode()
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    if libc.mount(b"scratch", SCRATCH.encode(), b"tmpfs", flags, options) != 0:
        raise StepError("scratch")
    os.chdir(SCRATCH)
    for fd in PRINTED:
        _put(os.open(SCRATCH, os.O_TMPFILE | os.O_RDWR | os.O_APPEND, 0o600), fd)


def _go_without_scratch(limits: Wire) -> None:
    """What is printed past ``sys`` goes to memory files; RLIMIT_FSIZE bounds them."""
    limits["scratch_bytes"] = limits["scratch_inodes"] = 0
    for fd in PRINTED:
        _put(os.memfd_create("printed"), fd)
        if libc.fcntl(fd, F_SETFL, os.O_APPEND) != 0:
            raise StepError("scratch")


def _put(source: int, target: int) -> None:
    os.dup2(source, target)
    os.close(source)


def _tasks_of_user() -> int:
    """Threads that the uid has outside this process: RLIMIT_NPROC counts them as well."""
    count = 0
    for name in os.listdir("/proc"):  # noqa: PTH208  (pathlib costs 10 ms to import)
        if name.isdigit() and int(name) != os.getpid():
            try:
                if os.stat(f"/proc/{name}").st_uid == os.getuid():  # noqa: PTH116
                    count += os.stat(f"/proc/{name}/task").st_nlink - 2  # noqa: PTH116
            except OSError:
                continue  # it has ended
    return count


def _set_limits(limits: Wire, context_bytes: int, tasks: int) -> None:
    """RLIMIT_DATA is the memory limit; RLIMIT_AS only catches what it does not count."""
    memory = limits["memory_bytes"]
    wanted = {
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_AS: memory + context_bytes + AS_SLACK_BYTES,
        resource.RLIMIT_STACK: STACK_BYTES,
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_NPROC: tasks,
        resource.RLIMIT_FSIZE: limits["scratch_bytes"] or limits["output_bytes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: PENDING_SIGNALS,
    }
    for which, amount in wanted.items():
        _, hard = resource.getrlimit(which)
        lowered = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        try:
            resource.setrlimit(which, (lowered, lowered))
        except (OSError, ValueError):
            raise StepError("limits") from None


def keep_reserve(limits: Wire, kept: bool) -> None:
    """Hold the reserve back while a cell runs; it may take it, the hard limit stays."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = max(0, min(hard, limits["memory_bytes"] - RESERVE_BYTES)) if kept else hard
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def drop_privileges() -> None:
    """Give up every capability (in a jail the one that mounted the scratch folder), for good."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.capset(header, nothing) != 0:
        raise StepError("privileges")
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise StepError("privileges")


class Program(ctypes.Structure):
    """A filter as the kernel takes it, with this process's pid in its place."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    def __init__(self, code: bytes) -> None:
        code = code.replace(OWN_PID.to_bytes(4, "little"), os.getpid().to_bytes(4, "little"))
        self.buffer = ctypes.create_string_buffer(code, len(code))
        super().__init__(len(code) // 8, ctypes.cast(self.buffer, ctypes.c_void_p))


def _install_filter(path: str) -> None:
    with open(path, "rb") as file:
        program = Program(file.read())
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        raise StepError("filter")


def filtered() -> bool:
    """Whether the inner filter holds, asked of the kernel: EPERM where before was ENOENT."""
    nobody: Any = (ctypes.c_char_p * 1)(None)
    libc.execve(b"/no/such/program", nobody, nobody)
    return ctypes.get_errno() == 1
