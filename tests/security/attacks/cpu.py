"""Time: never giving it back. Without the clock such a cell is still running when we look again."""

from collections.abc import Mapping

from tests.security.attack import Attack
from tests.security.layers import Layer

CLOCK: Mapping[Layer, str] = {"the clock": "deadline"}


def _endless(name: str, mechanism: str, code: str, stopped: Mapping[Layer, str] = CLOCK) -> Attack:
    return Attack(name, mechanism, code, stopped, worked="still running")


CPU = (
    _endless(
        "a busy loop",
        "Python code that swallows every interrupt",
        """
        def spin():
            while True: pass
        while True:
            try: spin()
            except BaseException: pass
        """,
    ),
    _endless(
        "C code that holds the interpreter",
        "one call that takes hours; no handler runs before it returns",
        "sum(range(10 ** 13))",
    ),
    _endless(
        "a pattern that never ends",
        "a regular expression with exponential backtracking",
        "import re; re.match('(a*)*b', 'a' * 60)",
        {"the clock": "interrupted"},
    ),
    _endless(
        "sleep for ever",
        "no CPU at all",
        """
        import time
        while True:
            try: time.sleep(60)
            except BaseException: pass
        """,
    ),
    _endless(
        "ignore the interrupt",
        "SIGINT set to SIG_IGN",
        """
        import signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True: pass
        """,
    ),
    _endless(
        "block the interrupt",
        "every signal masked, then a wait in the kernel",
        """
        import select, signal
        signal.pthread_sigmask(signal.SIG_SETMASK, range(1, 65))
        select.select([], [], [])
        """,
    ),
    _endless(
        "a storm of timers",
        "setitimer: a handler that is always due",
        """
        import signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        while True: pass
        """,
    ),
    _endless(
        "compute behind an open call",
        "a thread waits for the host, which stops the wall clock; the others compute",
        """
        import threading
        threading.Thread(target=ask, daemon=True).start()
        def spin():
            while True: pass
        while True:
            try: spin()
            except BaseException: pass
        """,
    ),
    _endless(
        "a lock that is never free",
        "the main thread waits for a thread that waits for it",
        """
        import threading
        lock = threading.Lock()
        lock.acquire()
        while True:
            try: lock.acquire()
            except BaseException: pass
        """,
    ),
)
