"""A REPL that is closed while its sandbox is being made, as a run is that is cancelled early."""

import threading
from typing import Any

import pytest

from distill.errors import SandboxError
from distill.repl import REPL
from distill.supervisor import driver
from distill.supervisor.sandboxes import Sandbox
from tests.supervisor.processes import context_files, is_alive, wait_until


class Slow(REPL):
    """Takes as long to make its sandbox as it takes somebody to close it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.made: Sandbox | None = None

    def _make_sandbox(self, host: driver.Driver) -> Sandbox:
        self.begun.set()
        assert self.may_go_on.wait(30)
        self.made = super()._make_sandbox(host)
        return self.made


def test_nothing_stays_of_it() -> None:
    before = context_files()
    repl = Slow("a text", "", worker_fn=str, worker_batch_fn=list)
    told: list[str] = []

    def start() -> None:
        with pytest.raises(SandboxError, match="was closed") as refused:
            repl.start()
        told.append(str(refused.value))

    starting = threading.Thread(target=start)
    starting.start()
    assert repl.begun.wait(30)
    closing = threading.Thread(target=repl.close)
    closing.start()
    repl.may_go_on.set()
    for each in (starting, closing):
        each.join(30)
    assert told
    if repl.made is not None and (keeper := repl.made.producer.pid):
        wait_until(lambda: not is_alive(keeper), what="the keeper that it had taken is gone")
    assert context_files() == before


def test_a_closed_one_runs_no_cell() -> None:
    repl = REPL("", "", worker_fn=str, worker_batch_fn=list)
    repl.close()
    with pytest.raises(SandboxError, match="was closed"):
        repl.execute("1 + 1")
