"""Descriptors, and kernel memory that hangs on them or on nothing."""

from collections.abc import Mapping

from tests.security.attack import FILTERS, Attack
from tests.security.layers import Layer

TOO_MANY: Mapping[Layer, str] = {"RLIMIT_NOFILE": "EMFILE"}

DESCRIPTORS = (
    Attack("duplicates", "dup", "for _ in range(100): os.dup(1)", TOO_MANY),
    Attack(
        "full pipes",
        "64 KiB of kernel memory in each",
        """
        for _ in range(60):
            r, w = os.pipe()
            os.write(w, bytes(65536))
        """,
        TOO_MANY,
    ),
    Attack(
        "full socket pairs",
        "queues of what nobody reads",
        """
        import socket
        kept = []
        for _ in range(60):
            a, b = socket.socketpair()
            kept += [a, b]
            a.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True: a.send(bytes(4096))
        """,
        TOO_MANY,
    ),
    Attack(
        "watches on watches",
        "epoll descriptors, each in the next",
        """
        import select
        kept = [select.epoll() for _ in range(100)]
        """,
        TOO_MANY,
    ),
    Attack(
        "timers as descriptors",
        "timerfd",
        "call(283, 1, 0)",
        FILTERS,
    ),
    Attack(
        "a pipe of a megabyte",
        "F_SETPIPE_SZ",
        "import fcntl; fcntl.fcntl(os.pipe()[1], 1031, 1 << 20)",
        FILTERS,
    ),
    Attack(
        "signals as descriptors",
        "signalfd",
        "call(289, -1, bytes(8), 8, 0)",
        FILTERS,
    ),
    Attack(
        "more descriptors than are given",
        "setrlimit upwards",
        """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
        for _ in range(100): os.dup(1)
        """,
        {"RLIMIT_NOFILE": "ValueError"},
    ),
    Attack(
        "signals that nobody takes",
        "real-time signals, blocked, each kept in the kernel's memory",
        """
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [40])
        for _ in range(2000): call(234, os.getpid(), call(186), 40)
        """,
        {"RLIMIT_SIGPENDING": "EAGAIN"},
        keeps=frozenset({"user namespace"}),
    ),
    Attack(
        "timers that no descriptor bounds",
        "timer_create",
        "call(222, 1, None, ctypes.byref(ctypes.c_int()))",
        FILTERS,
    ),
)
