"""Many runs that begin at once start their jails a few at a time, so that each is in time."""

import os
import threading
import time

from distill import REPL
from distill.supervisor.driver import STARTS_PER_CORE

AT_ONCE = STARTS_PER_CORE * len(os.sched_getaffinity(0))
STARTING = ("new", "greeted", "running", "empty", "opening")


def is_starting(repl: REPL) -> bool:
    """Whether it has a keeper whose jail is not ready yet."""
    sandbox = repl.sandbox
    keeper = sandbox._keeper if sandbox is not None else None
    return keeper is not None and keeper.state in STARTING


def test_jails_start_a_few_at_a_time() -> None:
    """All at once, 64 of them on two busy cores were not ready after a minute."""
    repls = [REPL("a text", "", str, list) for _ in range(AT_ONCE + 4)]
    threads = [threading.Thread(target=repl.start) for repl in repls]
    most = 0
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most = max(most, sum(map(is_starting, repls)))
            time.sleep(0.002)
        assert [repl.execute("print(1)").stdout for repl in repls] == ["1\n"] * len(repls)
        assert 1 < most <= AT_ONCE
    finally:
        for repl in repls:
            repl.close()
