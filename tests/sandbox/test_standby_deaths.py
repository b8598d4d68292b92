"""Of the keeper and the jail that stand by either may die first: one pair takes their place."""

import time

import pytest

from distill.repl import REPL
from distill.supervisor import driver
from tests.supervisor.processes import below, is_alive, kill, wait_until

INTERPRETER = "jail/interpreter.py"
KEEPER = "distill.sandbox.keeper"


def _run() -> None:
    """A run, over when its own keeper is gone."""
    with REPL("", "", worker_fn=str, worker_batch_fn=list) as repl:
        assert repl.execute("1 + 1").stdout == "2\n"
        assert repl.sandbox is not None
        keeper = repl.sandbox.producer.pid
    wait_until(lambda: not is_alive(keeper), what="the run's keeper is gone")


def _standing_by() -> tuple[list[int], list[int]]:
    launcher = driver.shared().children.launcher_pid
    return below(launcher, KEEPER), below(launcher, INTERPRETER)


def _has_one_pair() -> bool:
    keepers, interpreters = _standing_by()
    return len(keepers) == 1 and len(interpreters) == 2  # bubblewrap, and the interpreter in it


def _end(pid: int) -> None:
    kill(pid)
    wait_until(lambda: not is_alive(pid), what="its death")


@pytest.mark.parametrize("mark", [KEEPER, INTERPRETER])
def test_one_takes_the_place_of_what_died(mark: str) -> None:
    for _ in range(3):
        _run()
        wait_until(_has_one_pair, what="a keeper and a jail that stand by")
        victim = below(driver.shared().children.launcher_pid, mark)[-1]
        _end(victim)
        wait_until(_has_one_pair, what="another pair")
        time.sleep(0.3)  # for one too many
        assert _has_one_pair()
    _run()
