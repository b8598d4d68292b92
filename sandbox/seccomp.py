"""What is asked of the kernel, and by whom: four allowlists, from which the filters are made.

========== ====================================================================================
outer      bubblewrap's: from the execution of the interpreter, which must still be loaded,
           mount its scratch folder and lock itself in
inner      installed by the interpreter before it says Ready, in the namespace tier
alone      the same in the Landlock tier, where no namespace and no mount stand behind it
keeper     installed by the keeper before it hears of its first jail
========== ====================================================================================

What is on no list answers EPERM. The assembled filters are files (``sandbox/filters``):
``python -m distill.sandbox.bpf`` writes them, a test compares. Those for aarch64 are assembled
from the kernel's table of numbers and were never run.
"""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from distill.sandbox.syscalls import Machine


@dataclass(frozen=True, slots=True)
class Test:
    """An argument of a call, masked, equals a value."""

    argument: int
    value: int
    mask: int = 0xFFFF_FFFF


Rule = tuple[Test, ...]
"""Tests that must all hold."""
Rules = dict[str, tuple[Rule, ...]]
"""Call → alternatives, one of which must hold. No alternatives: allowed in any form."""
FilterName = Literal["outer", "inner", "alone", "keeper"]

FOLDER = Path(__file__).resolve().parent / "filters"

MAP_SHARED, MAP_ANONYMOUS, MAP_GROWSDOWN = 0x01, 0x20, 0x100
PROT_WRITE = 0x2
CLONE_THREAD, CLONE_NEW_ANYTHING = 0x0001_0000, 0x7E02_0080
AF_UNIX = 1
O_ACCMODE, O_TRUNC = 0o3, 0o1000
MADVISE_HARMLESS = (0, 1, 2, 3, 4, 8, 14)
"""NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTNEED, FREE, HUGEPAGE; not MERGEABLE, PAGEOUT and so on,
through which one process can learn of or disturb another's pages."""
TERMINAL_AND_FLAGS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS and TIOCGWINSZ (isatty), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
FCNTL_HARMLESS = (0, 1, 2, 3, 4, 1030, 1032)
"""Duplicates and flags; not owners of signals, leases or the size of pipes."""
FCNTL_LOCKS = (5, 6, 7, 36, 37, 38)
PR_SET_NAME, PR_GET_NAME = 15, 16
OWN_PID = 0x7FED_CBA9
"""Stands for the pid of whoever installs the filter, who puts it in. No pid is as large (2^22 at
most), so that in a filter in which it was forgotten the rule allows nothing."""
NEGATIVE, PER_THREAD = 0x8000_0000, 0x4
"""Bits of a clock's id: a CPU clock by pid, and one of a thread (only a thread of its own)."""


def _calls(*names: str) -> Rules:
    return dict.fromkeys(" ".join(names).split(), ())


def _one_of(argument: int, values: tuple[int, ...]) -> tuple[Rule, ...]:
    return tuple((Test(argument, value),) for value in values)


def _own(argument: int = 0) -> tuple[Rule, ...]:
    """The caller itself, as 0 or by its pid."""
    return _one_of(argument, (0, OWN_PID))


_OWN_CLOCK = ((Test(0, 0, NEGATIVE),), (Test(0, PER_THREAD, PER_THREAD),))

_MEMORY: Rules = {
    **_calls("brk mprotect mremap munmap"),
    "madvise": _one_of(2, MADVISE_HARMLESS),
    # Shared writable and downward-growing mappings are memory that RLIMIT_DATA does not count; an
    # anonymous shared one could be made writable later.
    "mmap": (
        (Test(3, 0, MAP_SHARED | MAP_GROWSDOWN),),
        (
            Test(3, MAP_SHARED, MAP_SHARED | MAP_GROWSDOWN | MAP_ANONYMOUS),
            Test(2, 0, PROT_WRITE),
        ),
    ),
}
_THREADS: Rules = {
    **_calls(
        "exit exit_group futex getcpu getpid getppid gettid nanosleep restart_syscall rseq "
        "rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait "
        "sched_yield set_robust_list setitimer getitimer sigaltstack"
    ),
    "clock_getres": _OWN_CLOCK,
    "clock_nanosleep": _OWN_CLOCK,
    "prlimit64": ((Test(0, 0),),),
    "tgkill": ((Test(0, OWN_PID),),),
}

_CELL: Rules = {
    **_MEMORY,
    **_THREADS,
    **_calls(
        # files: what the mounts or Landlock show, no more
        "access chdir close close_range dup dup2 dup3 faccessat faccessat2 fchdir fstat fstatfs "
        "ftruncate getcwd getdents64 lseek lstat newfstatat pread64 preadv preadv2 pwrite64 "
        "pwritev pwritev2 read readlink readlinkat readv stat statfs statx write writev",
        # waiting
        "epoll_create1 epoll_ctl epoll_pwait epoll_wait pause pipe pipe2 poll ppoll pselect6 "
        "select wait4 waitid alarm",
        # asking who and when
        "getegid geteuid getgid getgroups getpgrp getrandom getresgid getresuid getrlimit "
        "getrusage gettimeofday getuid sched_get_priority_max sched_get_priority_min sysinfo time "
        "times umask uname",
        # one end of its own socketpair (asyncio wakes itself that way)
        "recvfrom shutdown",
    ),
    # A thread, never a process, never in a new namespace of any kind.
    "clone": ((Test(0, CLONE_THREAD, CLONE_THREAD | CLONE_NEW_ANYTHING),),),
    "clock_gettime": _OWN_CLOCK,
    "fcntl": _one_of(1, FCNTL_HARMLESS),
    "getpgid": _own(),
    "getpriority": ((Test(0, 0), Test(1, 0)), (Test(0, 0), Test(1, OWN_PID))),
    "getsid": _own(),
    "ioctl": _one_of(1, TERMINAL_AND_FLAGS),
    "prctl": _one_of(0, (PR_SET_NAME, PR_GET_NAME)),
    "sched_getaffinity": _own(),
    "sched_getparam": _own(),
    "sched_getscheduler": _own(),
    "sendto": ((Test(4, 0, 0xFFFF_FFFF_FFFF_FFFF),),),
    "socketpair": ((Test(0, AF_UNIX),),),
}
"""What a cell may ask in either tier."""

INNER: Rules = {
    **_CELL,
    # making and changing files: only the scratch folder can be written
    **_calls(
        "chmod fallocate fchmod fchmodat fdatasync fgetxattr flistxattr flock fsync getxattr "
        "lgetxattr link linkat listxattr llistxattr mkdir mkdirat open openat rename renameat "
        "renameat2 rmdir symlink symlinkat truncate unlink unlinkat utimensat"
    ),
    "fcntl": _one_of(1, FCNTL_HARMLESS + FCNTL_LOCKS),
}


def _opening(flags: int) -> tuple[Rule, ...]:
    """Opening for reading or writing, which Landlock judges. The fourth access mode it does not
    know, nor, before its ABI 3, a truncation that comes with reading.
    """
    return (
        (Test(flags, 0, O_ACCMODE | O_TRUNC),),
        (Test(flags, 1, O_ACCMODE),),
        (Test(flags, 2, O_ACCMODE),),
    )


ALONE: Rules = {**_CELL, "open": _opening(1), "openat": _opening(2)}
"""Nothing that Landlock does not restrict and that changes a file: no chmod, no utime, no locks."""

OUTER: Rules = {
    **INNER,
    **_calls(
        "execve arch_prctl set_tid_address",  # the interpreter is executed and loaded
        "recvmsg",  # the context's descriptor comes from the launcher
        "mount",  # its scratch folder, bounded in bytes and inodes
        "capget capset setrlimit",  # privileges and limits are given up
        "landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    ),
    "prctl": (),  # installs the inner filter
}
"""What the interpreter may ask before it says Ready."""

KEEPER: Rules = {
    **_MEMORY,
    **_THREADS,
    **_calls(
        "clock_gettime",  # of the jail's CPU clock, by its pid
        "close dup eventfd2 epoll_ctl epoll_pwait epoll_wait fstat getegid geteuid getgid getuid "
        "getpeername getrandom getrusage getsockname getsockopt gettimeofday lseek poll ppoll "
        "pread64 read readv recvfrom recvmsg sendmsg setsockopt shutdown time write writev",
    ),
    "fcntl": _one_of(1, FCNTL_HARMLESS),
    "ioctl": _one_of(1, TERMINAL_AND_FLAGS),
    "sendto": ((Test(4, 0, 0xFFFF_FFFF_FFFF_FFFF),),),
}
"""What a keeper needs once it is connected: no file, no new socket, thread or process."""

FILTERS: dict[FilterName, Rules] = {
    "outer": OUTER,
    "inner": INNER,
    "alone": ALONE,
    "keeper": KEEPER,
}
PLAIN_ENOSYS = ("clone3",)
"""Their arguments lie in memory, which a filter can't read; ENOSYS makes libc use clone."""


def machine() -> Machine | None:
    """The architecture that filters are built for here, None if there is no table for it."""
    found = platform.machine()
    return next((known for known in get_args(Machine) if known == found), None)


def load(name: FilterName, target: Machine) -> bytes:
    """The assembled filter, from its file; ``OWN_PID`` stands in it where a pid is compared."""
    return path(name, target).read_bytes()


def for_pid(filter_bytes: bytes, pid: int) -> bytes:
    """The filter of the process that will have this pid."""
    return filter_bytes.replace(OWN_PID.to_bytes(4, "little"), pid.to_bytes(4, "little"))


def path(name: FilterName, target: Machine) -> Path:
    """Where the assembled filter lies."""
    return FOLDER / f"{target}-{name}.bpf"
