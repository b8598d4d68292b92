"""A keeper whose loop is stuck is ended by its driver, not by the jail's good will."""

import os
import signal
import time

import psutil

from distill.repl import REPL
from distill.supervisor.keeper_process import SHUTDOWN_S


def test_a_stuck_keeper_does_not_outlive_its_session() -> None:
    repl = REPL("", "", lambda prompt: prompt, list)
    with repl:
        repl.execute("a = 1")
        assert repl.sandbox is not None
        keeper = psutil.Process(repl.sandbox.producer.pid)
        os.kill(keeper.pid, signal.SIGSTOP)
    started = time.monotonic()
    gone, _ = psutil.wait_procs([keeper], timeout=SHUTDOWN_S + 3)
    assert gone, f"alive {time.monotonic() - started:.1f} s later"
