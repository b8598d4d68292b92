"""Threads for synchronous calls: reused when idle, more when all are busy, gone when unused."""

import threading
import time
from queue import SimpleQueue

import pytest

from distill.supervisor import call_threads
from distill.supervisor.call_threads import CallThreads
from tests.supervisor.processes import wait_until


def _ident(threads: CallThreads) -> int:
    """The thread that a call runs in, once it can be had again."""
    told: SimpleQueue[int] = SimpleQueue()
    threads.run(lambda: lambda: told.put(threading.get_ident()))
    return told.get(timeout=5)


def test_an_idle_thread_takes_the_next_call() -> None:
    threads = CallThreads()
    assert len({_ident(threads) for _ in range(20)}) == 1


def test_a_call_never_waits_for_another() -> None:
    threads = CallThreads()
    met = threading.Barrier(8)
    told: SimpleQueue[int] = SimpleQueue()

    def call() -> object:
        met.wait(5)  # passes only if all eight run at once
        return lambda: told.put(threading.get_ident())

    for _ in range(8):
        threads.run(call)  # type: ignore[arg-type]
    assert len({told.get(timeout=5) for _ in range(8)}) == 8


def test_unused_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_threads, "IDLE_S", 0.05)
    threads = CallThreads()
    ident = _ident(threads)
    wait_until(lambda: ident not in {thread.ident for thread in threading.enumerate()})
    _ident(threads)  # and another can be had


def test_calls_at_the_moment_that_threads_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_threads, "IDLE_S", 0.002)
    threads = CallThreads()
    for number in range(200):
        _ident(threads)
        time.sleep(0.002 + number % 5 / 10_000)
