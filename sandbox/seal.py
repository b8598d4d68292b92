"""The keeper shuts itself before it hears of a jail: it starts nothing and opens nothing more.

In two steps. Landlock holds for the thread that asks and for those that it starts later, so it
comes before the first of them; a filter can be put on all threads at once, and comes when the
keeper is connected.
"""

import ctypes
import os
import resource
import signal

from distill.sandbox import seccomp
from distill.sandbox.jail import confine, landlock
from distill.sandbox.syscalls import number

MEMORY_BYTES = 1 << 30
"""Should a jail get past all other limits, the keeper dies, and it alone."""
SET_MODE_FILTER, ON_ALL_THREADS = 1, 1
"""Operation and flag of seccomp(2)."""
PR_SET_PDEATHSIG = 1


class SealError(OSError):
    """A step failed: a keeper that is not sealed keeps no jail."""


class Seal:
    """Both steps; ``uid`` is what the keeper becomes, if it is root."""

    def __init__(self, uid: int | None) -> None:
        """Give up every path, where the kernel has Landlock. Before the first thread is started."""
        self._uid = uid
        self._machine = seccomp.machine()
        self._filter = seccomp.load("keeper", self._machine) if self._machine else b""
        landlock.restrict(confine.libc, readable=(), writable=())

    def close(self) -> None:
        """Bound memory, become ``uid``, drop privileges, filter all threads.

        Raises SealError, or OSError from the kernel.
        """
        _limit(resource.RLIMIT_DATA, MEMORY_BYTES)
        _limit(resource.RLIMIT_CORE, 0)
        if self._uid is not None:
            self._become(self._uid)
        confine.drop_privileges()
        if self._machine is not None:
            program = confine.Program(self._filter)
            call = number("seccomp", self._machine)
            done = confine.libc.syscall(
                call, SET_MODE_FILTER, ON_ALL_THREADS, ctypes.byref(program)
            )
            _checked(done, "filter")

    def _become(self, uid: int) -> None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        # A change of uid has taken away what ends it with the launcher.
        _checked(confine.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "death signal")


def _limit(which: int, amount: int) -> None:
    _, hard = resource.getrlimit(which)
    lowered = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    resource.setrlimit(which, (lowered, lowered))


def _checked(result: int, step: str) -> None:
    if result != 0:
        raise SealError(ctypes.get_errno(), f"the keeper can't be sealed ({step})")
