"""Two seccomp filters, each from one readable allowlist.

The **outer** filter is bubblewrap's: it holds from the moment it executes the interpreter,
which must still be loaded, mount its scratch folder and lock itself in. The **inner** one is
installed by the interpreter before it says Ready. What is on no list answers EPERM.

Only classic BPF's five instructions are needed, so the assembler is this file's last part.
"""

import errno
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from distill.sandbox.syscalls import AUDIT_ARCH, NEWEST_KNOWN, Machine, number


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

ALWAYS = (
    # files: what the mount namespace shows, no more
    "access chdir chmod close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 "
    "fadvise64 fallocate fchdir fchmod fchmodat fdatasync fgetxattr flistxattr flock fstat fstatfs "
    "fsync ftruncate futimesat getcwd getdents64 getxattr lgetxattr link linkat listxattr "
    "llistxattr lseek lstat mkdir mkdirat newfstatat open openat pread64 preadv preadv2 pwrite64 "
    "pwritev pwritev2 read readlink readlinkat readv rename renameat renameat2 rmdir sendfile stat "
    "statfs statx symlink symlinkat truncate umask unlink unlinkat utime utimensat utimes write "
    "writev "
    # memory that RLIMIT_DATA counts (mmap: see below)
    "brk madvise mincore mprotect mremap msync munmap "
    # threads and waiting
    "exit exit_group futex get_robust_list getcpu membarrier restart_syscall rseq sched_yield "
    "sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getparam "
    "sched_getscheduler set_robust_list wait4 waitid "
    "epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2 pipe pipe2 poll ppoll "
    "pselect6 select timerfd_create timerfd_gettime timerfd_settime "
    # signals and timers of its own
    "alarm getitimer pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend "
    "rt_sigtimedwait setitimer sigaltstack timer_create timer_delete timer_getoverrun "
    "timer_gettime timer_settime "
    # asking who and when
    "clock_getres clock_gettime clock_nanosleep getegid geteuid getgid getgroups getpgid getpgrp "
    "getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid gettid "
    "gettimeofday getuid nanosleep sysinfo time times uname "
    # one end of its own socketpair (asyncio wakes itself that way)
    "recvfrom shutdown"
).split()

MAP_SHARED, MAP_ANONYMOUS, MAP_GROWSDOWN = 0x01, 0x20, 0x100
PROT_WRITE = 0x2
CLONE_THREAD, CLONE_NEW_ANYTHING = 0x0001_0000, 0x7E02_0080
AF_UNIX = 1
TERMINAL_AND_FLAGS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS and TIOCGWINSZ (isatty), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
FCNTL_HARMLESS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)
"""Duplicates, flags and locks; not owners of signals, leases or the size of pipes."""
PR_SET_NAME, PR_GET_NAME = 15, 16
ITSELF = 1
"""The interpreter's pid inside: bubblewrap starts it as the first of its pid namespace."""


def _one_of(argument: int, values: tuple[int, ...]) -> tuple[Rule, ...]:
    return tuple((Test(argument, value),) for value in values)


INNER: Rules = {
    **dict.fromkeys(ALWAYS, ()),
    # A thread, never a process, never in a new namespace of any kind.
    "clone": ((Test(0, CLONE_THREAD, CLONE_THREAD | CLONE_NEW_ANYTHING),),),
    "fcntl": _one_of(1, FCNTL_HARMLESS),
    "ioctl": _one_of(1, TERMINAL_AND_FLAGS),
    # Shared writable and downward-growing mappings are memory that RLIMIT_DATA does not count; an
    # anonymous shared one could be made writable later.
    "mmap": (
        (Test(3, 0, MAP_SHARED | MAP_GROWSDOWN),),
        (
            Test(3, MAP_SHARED, MAP_SHARED | MAP_GROWSDOWN | MAP_ANONYMOUS),
            Test(2, 0, PROT_WRITE),
        ),
    ),
    "prctl": _one_of(0, (PR_SET_NAME, PR_GET_NAME)),
    "prlimit64": ((Test(0, 0),),),
    "sendto": ((Test(4, 0, 0xFFFF_FFFF_FFFF_FFFF),),),
    "socketpair": ((Test(0, AF_UNIX),),),
    "tgkill": ((Test(0, ITSELF),),),
}
"""What a cell may ask of the kernel."""

OUTER: Rules = {
    **INNER,
    **dict.fromkeys(
        (
            "execve arch_prctl set_tid_address "  # the interpreter is executed and loaded
            "recvmsg "  # the context's descriptor comes from the launcher
            "mount "  # its scratch folder, bounded in bytes and inodes
            "capget capset setrlimit "  # privileges and limits are given up
            "landlock_create_ruleset landlock_add_rule landlock_restrict_self"
        ).split(),
        (),
    ),
    "prctl": (),  # installs the inner filter
}
"""What the interpreter may ask before it says Ready."""

PLAIN_ENOSYS = ("clone3",)
"""Their arguments lie in memory, which a filter can't read; ENOSYS makes libc use clone."""


def machine() -> Machine | None:
    """The architecture that filters are built for here, None if there is no table for it."""
    found = platform.machine()
    return next((known for known in get_args(Machine) if known == found), None)


# -- the assembler: struct sock_filter is u16 code, u8 jump-true, u8 jump-false, u32 operand

_LOAD, _AND, _JUMP_EQUAL, _JUMP_ABOVE, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
Instruction = tuple[int, int, int, int]


def assemble(rules: Rules, target: Machine) -> bytes:
    """The filter as the kernel wants it: an array of ``struct sock_filter``, little-endian."""
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, AUDIT_ARCH[target]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        # x32's calls (bit 30) land here as well.
        (_JUMP_ABOVE, 0, 1, NEWEST_KNOWN),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    for name, alternatives in rules.items():
        call = number(name, target)
        if call is not None:
            body = list(_body(alternatives))
            program += [(_JUMP_EQUAL, 0, len(body), call), *body]
    for name in PLAIN_ENOSYS:
        call = number(name, target)
        if call is not None:
            program += [(_JUMP_EQUAL, 0, 1, call), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    program.append((_RETURN, 0, 0, _ERRNO | errno.EPERM))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _body(alternatives: tuple[Rule, ...]) -> Iterator[Instruction]:
    """Allow if one of the alternatives holds; the last instruction always returns."""
    for rule in alternatives:
        checks = [instruction for test in rule for instruction in _check(test)]
        for index, (code, yes, no, operand) in enumerate(checks):
            # A failed test skips the rest of this alternative and its ALLOW.
            distance = len(checks) - index if code == _JUMP_EQUAL else no
            yield code, yes, distance, operand
        yield _RETURN, 0, 0, _ALLOW
    yield _RETURN, 0, 0, _ERRNO | errno.EPERM if alternatives else _ALLOW


def _check(test: Test) -> Iterator[Instruction]:
    """Compare the halves of a 64-bit argument that the mask covers."""
    for half in range(2):
        mask = test.mask >> 32 * half & 0xFFFF_FFFF
        if mask:
            yield _LOAD, 0, 0, _ARGUMENTS + 8 * test.argument + 4 * half
            yield _AND, 0, 0, mask
            yield _JUMP_EQUAL, 0, 0, test.value >> 32 * half & 0xFFFF_FFFF
