"""A keeper that a jail has taken over, at the worst moment: its code is the attacker's.

Run in the keeper's place; ``--off STEP`` leaves out one of its steps. What came of each attack is
shipped as a log record.
"""

# ruff: noqa: PTH101, PTH108, PTH116, PTH208

import ctypes
import errno
import mmap
import os
import queue
import resource
import socket
import sys
import threading
from collections.abc import Callable
from unittest import mock

from distill.protocol.sandbox_link import JailLost, OpenJail
from distill.sandbox import keeper, seal
from distill.sandbox.jail import confine, landlock

libc = confine.libc
PTRACE_CONT = 7
"""Of a process that is not traced: ESRCH, if one may ask."""


def call(*arguments: object) -> None:
    """A system call by its number."""
    if libc.syscall(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")


def start_thread() -> None:
    """Python says it in its own words."""
    try:
        threading.Thread(target=print).start()
    except RuntimeError:
        raise PermissionError(errno.EPERM, "") from None


ATTACKS: dict[str, Callable[[], object]] = {
    "read": lambda: open("/etc/passwd").close(),
    "read, by the old call": lambda: call(2, b"/etc/passwd", 0),
    "write": lambda: open("/tmp/distill-turned", "w").close(),
    "list": lambda: os.listdir("/"),
    "remove": lambda: os.unlink("/nonexistent"),
    "look for": lambda: os.stat("/root"),
    "change a mode": lambda: os.chmod("/nonexistent", 0o600),
    "its own environment": lambda: open("/proc/self/environ").close(),
    "the driver's environment": lambda: open(f"/proc/{os.getppid()}/environ").close(),
    "fork": lambda: os.fork() or os._exit(0),
    "a thread": start_thread,
    "execute": lambda: os.execv("/no/such/program", ["x"]),
    "internet": lambda: socket.socket().close(),
    "a unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
    "a pair of sockets": socket.socketpair,
    "signal": lambda: os.kill(os.getppid(), 0),
    "signal to a thread": lambda: call(234, os.getppid(), os.getppid(), 0),
    "descriptor of a process": lambda: os.pidfd_open(os.getppid()),
    "another's memory": lambda: call(310, os.getppid(), 0, 0, 0, 0, 0),
    "trace": lambda: call(101, PTRACE_CONT, os.getppid(), 0, 0),
    "limits of another": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE),
    "a namespace": lambda: call(272, 0),
    "a memory file": lambda: os.memfd_create("x"),
    "shared memory": lambda: mmap.mmap(-1, 4096).close(),
    "privileges": lambda: os.setresuid(-1, -1, -1),
    "another filter": lambda: call(317, 2, 0, ctypes.byref(ctypes.c_uint32(0x7FFF_0000))),
    "a process's options": lambda: call(157, 3),
}


def attack() -> dict[str, str]:
    """Each attack, and what came of it."""
    found = {}
    for name, one in ATTACKS.items():
        try:
            one()
            found[name] = "worked"
        except OSError as error:
            found[name] = errno.errorcode.get(error.errno or 0, "?")
    return found


def main() -> None:
    """Start a thread early, then be a keeper until the first jail is wanted."""
    early: queue.SimpleQueue[queue.SimpleQueue[dict[str, str]]] = queue.SimpleQueue()
    threading.Thread(target=lambda: early.get().put(attack()), daemon=True).start()

    def turned(self: keeper.Keeper, message: OpenJail) -> None:
        reply: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for where in ("main", "early"):
            if where == "early":
                early.put(reply)
            found = attack() if where == "main" else reply.get()
            self._driver.log("attacks", where=where, **found)
        self._driver.send(JailLost(message.jail, "start", "turned"))

    keeper.Keeper._open = turned  # type: ignore[method-assign]
    if "--off" in sys.argv:
        at = sys.argv.index("--off")
        _leave_out(sys.argv[at + 1])
        del sys.argv[at : at + 2]
    sys.exit(keeper.main())


def _leave_out(step: str) -> None:
    if step in ("files", "all"):
        mock.patch.object(landlock, "restrict").start()
    if step in ("kernel", "all"):
        mock.patch.object(seal.Seal, "close").start()


if __name__ == "__main__":
    main()
