"""A killed cell costs only itself: what comes back, what is named as lost, what is paid twice."""

import collections
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from distill.protocol.jail_link import Limits
from distill.repl import REPL, ExecResult
from distill.supervisor.history import told
from distill.traces.records import Restored
from tests.distill.scripted import MIB

LIMITS = Limits(memory_bytes=300 * MIB, cell_s=2.0, grace_s=0.5, run_s=60.0, threads=16)
KILL = "import os; os._exit(7)"


class Host:
    """Functions of the host that count their calls; equal calls get different answers."""

    def __init__(self) -> None:
        self.calls: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()
        self.gate = threading.Event()

    def _next(self, call: str) -> int:
        with self._lock:
            self.calls[call] += 1
            return self.calls[call]

    def worker(self, prompt: str) -> str:
        return f"{prompt}#{self._next(prompt)}"

    def worker_batch(self, prompts: list[str]) -> list[str]:
        return [f"{prompt}#{self._next(prompt)}" for prompt in prompts]

    def fail(self) -> None:
        self._next("fail")
        raise ValueError("no")

    def slow(self, name: str) -> str:
        self._next(name)
        self.gate.wait(10)
        return f"slow {name}"


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def repl(host: Host) -> Iterator[REPL]:
    primitives: dict[str, Callable[..., Any]] = {"fail": host.fail, "slow": host.slow}
    repl = REPL("the text", "why?", host.worker, host.worker_batch, primitives=primitives)
    repl.limits = LIMITS
    with repl:
        yield repl


def restored(result: ExecResult) -> Restored:
    assert result.lost is not None
    assert result.restored is not None
    return result.restored


def value(repl: REPL, expression: str) -> str:
    result = repl.execute(expression)
    assert result.error is None, result.error
    assert result.lost is None
    return result.full_stdout.strip()


DEATHS = {
    "exit": "import os; os._exit(7)",
    "segfault": "import ctypes; ctypes.string_at(0)",
    "endless loop": "import signal; signal.signal(2, signal.SIG_IGN)\nwhile True: pass",
    "deaf to everything": "import threading\nwhile True:\n    try: threading.Event().wait()\n"
    "    except BaseException: pass",
    "broken protocol": "import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'\\0' * 9)\n"
    "    except OSError: pass\nimport time; time.sleep(9)",
}


@pytest.mark.parametrize("name", DEATHS)
def test_a_killed_cell_costs_only_itself(repl: REPL, host: Host, name: str) -> None:
    repl.execute("import random\nx = worker('a')\nrolls = [random.random() for _ in range(3)]")
    repl.execute("def double(v): return v * 2\ny = worker_batch(['b', 'b', 'c'])")
    before = value(repl, "(x, y, rolls, double(4))")
    result = repl.execute(f"z = 1\n{DEATHS[name]}")
    came_back = restored(result)
    assert came_back.why is None
    assert came_back.upto == 3
    assert came_back.lost_names == came_back.changed_names == ()
    assert value(repl, "(x, y, rolls, double(4))") == before
    assert value(repl, "'z' in globals()") == "False"
    assert host.calls == {"a": 1, "b": 2, "c": 1}


def test_scratch_files_and_failed_cells_come_back(repl: REPL) -> None:
    repl.execute("open('/tmp/f', 'w').write('one')")
    failed = repl.execute("n = 1\nopen('/tmp/f', 'a').write(' two')\nn = 1 / 0")
    assert failed.error is not None
    assert restored(repl.execute(KILL)).why is None
    assert value(repl, "(n, open('/tmp/f').read())") == "(1, 'one two')"


def test_equal_calls_of_one_cell_keep_their_order(repl: REPL, host: Host) -> None:
    repl.execute("draws = [worker('same') for _ in range(5)]")
    repl.execute("draws.append(worker('same'))")
    restored(repl.execute(KILL))
    assert value(repl, "draws") == str([f"same#{n}" for n in range(1, 7)])
    assert host.calls["same"] == 6


def test_calls_of_threads(repl: REPL, host: Host) -> None:
    repl.execute(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool: got = list(pool.map(worker, 'abcdefgh' * 4))"
    )
    before = sorted(eval(value(repl, "got")))
    restored(repl.execute(KILL))
    assert sorted(eval(value(repl, "got"))) == before
    assert sum(host.calls.values()) == 32


def test_errors_of_primitives_are_replayed(repl: REPL, host: Host) -> None:
    repl.execute("try: fail()\nexcept PrimitiveError as error: said = str(error)")
    restored(repl.execute(KILL))
    assert "no" in value(repl, "said")
    assert host.calls["fail"] == 1


def test_a_cell_that_left_a_thread_is_not_run_again(repl: REPL) -> None:
    repl.execute("a = 1")
    left = repl.execute(
        "import threading, time\nb = 2\na = 10\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    )
    assert left.blocked is not None
    repl.execute("c = 3")
    came_back = restored(repl.execute(KILL))
    assert came_back.upto == 1
    assert set(came_back.lost_names) == {"a", "b", "c", "threading", "time"}
    assert "cell 2" in str(came_back.why)
    assert "thread" in str(came_back.why)
    assert value(repl, "(a, 'b' in globals())") == "(1, False)"


def test_an_interrupted_cell_is_not_run_again(repl: REPL) -> None:
    repl.execute("a = 1")
    assert repl.execute("import time\nb = 0\nwhile True: b += 1; time.sleep(.01)").interrupted
    came_back = restored(repl.execute(KILL))
    assert came_back.upto == 1
    assert "interrupted" in str(came_back.why)
    assert came_back.lost_names == ("time", "b")


def test_a_cell_that_calls_otherwise_ends_the_replay(repl: REPL, host: Host) -> None:
    repl.execute("a = 1")
    repl.execute("import time\nb = worker(str(time.time()))")
    repl.execute("c = 3")
    calls = sum(host.calls.values())
    came_back = restored(repl.execute(KILL))
    assert came_back.upto == 1
    assert "cell 2" in str(came_back.why)
    assert "worker" in str(came_back.why)
    assert came_back.lost_names == ("time", "b", "c")
    assert sum(host.calls.values()) == calls
    assert value(repl, "(a, 'b' in globals())") == "(1, False)"


def test_a_cell_that_makes_fewer_calls_ends_the_replay(repl: REPL) -> None:
    turn_s = time.time() + 1.0
    repl.execute("import time")
    repl.execute(f"few = [worker('x') for _ in range(3 if time.time() < {turn_s} else 1)]")
    repl.execute("d = 4")
    time.sleep(max(0.0, turn_s - time.time()))
    came_back = restored(repl.execute(KILL))
    assert came_back.upto == 1
    assert "cell 2" in str(came_back.why)
    assert "2 calls fewer" in str(came_back.why)
    assert came_back.lost_names == ("few", "d")


def test_other_values_are_named(repl: REPL) -> None:
    repl.execute("import time\nnow = time.time()\nprint(now)\nfixed = 3")
    came_back = restored(repl.execute(KILL))
    assert came_back.why is None
    assert came_back.changed_names == ("now",)
    assert came_back.differing == (1,)
    assert "now" in told(came_back)


def test_other_types_end_the_replay(repl: REPL) -> None:
    repl.execute("a = 1")  # the jail is up: the next cell takes no time
    turn_s = time.time() + 2.0
    repl.execute(f"import time\nb = 1 if time.time() < {turn_s} else 'late'")
    time.sleep(max(0.0, turn_s - time.time()))
    came_back = restored(repl.execute(KILL))
    assert came_back.upto == 1
    assert "other names, types" in str(came_back.why)
    assert came_back.lost_names == ("time", "b")


def test_answers_of_a_killed_cell_are_used_once_each(repl: REPL, host: Host) -> None:
    result = repl.execute("a = worker('p'); b = worker('p'); import os; os._exit(1)")
    restored(result)
    assert value(repl, "[worker('p') for _ in range(3)]") == "['p#1', 'p#2', 'p#3']"
    assert host.calls["p"] == 3


def test_answers_of_a_failed_cell_are_used_once_each(repl: REPL, host: Host) -> None:
    repl.execute("a = worker_batch(['p', 'q'])\nboom")
    assert value(repl, "worker_batch(['p', 'q'])") == "['p#1', 'q#1']"
    assert value(repl, "worker_batch(['p', 'q'])") == "['p#2', 'q#2']"


def test_an_answer_that_comes_after_the_kill_is_not_lost(repl: REPL, host: Host) -> None:
    result = repl.execute(
        "import threading, os, time\n"
        "threading.Thread(target=slow, args=('x',), daemon=True).start()\n"
        "time.sleep(.3); os._exit(1)"
    )
    restored(result)
    host.gate.set()
    deadline = time.monotonic() + 5
    while repl.sandbox is not None and repl.sandbox._tasks and time.monotonic() < deadline:
        time.sleep(0.01)
    assert value(repl, "slow('x')") == "'slow x'"
    assert host.calls["x"] == 1


def test_a_call_of_a_dead_jail_blocks_no_later_cell(repl: REPL, host: Host) -> None:
    repl.execute(
        "import threading, os, time\n"
        "threading.Thread(target=slow, args=('x',), daemon=True).start()\n"
        "time.sleep(.3); os._exit(1)"
    )
    assert host.calls["x"] == 1
    later = repl.execute("a = worker('a')")
    assert later.blocked is None
    assert restored(repl.execute(KILL)).why is None
    assert value(repl, "a") == "'a#1'"
    host.gate.set()


def test_a_jail_that_dies_between_cells_comes_back_unnoticed(repl: REPL) -> None:
    repl.execute("a = worker('a')")
    _kill_jail(repl)
    assert value(repl, "a") == "'a#1'"


def test_a_keeper_that_dies_between_cells_comes_back_unnoticed(repl: REPL) -> None:
    repl.execute("a = worker('a')")
    assert repl.sandbox is not None
    os.kill(repl.sandbox.producer.pid, signal.SIGKILL)
    time.sleep(0.3)
    assert value(repl, "a") == "'a#1'"


def test_a_keeper_that_dies_in_a_cell(repl: REPL) -> None:
    repl.execute("a = worker('a')")
    assert repl.sandbox is not None
    pid = repl.sandbox.producer.pid
    threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
    came_back = restored(repl.execute("import time; time.sleep(5)"))
    assert came_back.why is None
    assert value(repl, "a") == "'a#1'"


def test_a_keeper_that_crashes_says_where(repl: REPL) -> None:
    repl.execute("import time\nb = worker(str(time.time()))")
    assert repl.sandbox is not None
    pid = repl.sandbox.producer.pid
    threading.Timer(0.3, os.kill, (pid, signal.SIGABRT)).start()
    lost = str(repl.execute("time.sleep(5)").lost)
    assert f"its keeper died (status {-signal.SIGABRT})" in lost
    assert "Fatal Python error: Aborted" in lost
    assert "in serve" in lost, "the place in the keeper's loop"


def test_a_jail_that_dies_between_cells_and_can_not_come_back(repl: REPL) -> None:
    repl.execute("a = 1")
    repl.execute("import time\nb = worker(str(time.time()))")
    _kill_jail(repl)
    result = repl.execute("print('never')")
    assert restored(result).lost_names == ("time", "b")
    assert "not run" in str(result.lost)
    assert result.stdout == ""
    assert value(repl, "a") == "1"


def test_killed_again_and_again(repl: REPL, host: Host) -> None:
    repl.execute("seen = []")
    for number in range(5):
        repl.execute(f"seen.append(worker('n{number}'))")
        assert restored(repl.execute(KILL)).why is None
    assert value(repl, "seen") == str([f"n{number}#1" for number in range(5)])
    assert sum(host.calls.values()) == 5


def test_the_runs_clock_counts_over_jails(repl: REPL) -> None:
    repl.limits = Limits(memory_bytes=300 * MIB, cell_s=5.0, grace_s=0.3, run_s=1.0)
    for _ in range(3):
        repl.execute("import time\nt = time.monotonic()\nwhile time.monotonic() < t + .25: pass")
        repl.execute(KILL)
    result = repl.execute("while True: pass")
    assert result.interrupted or "run_s" in str(result.lost)
    assert result.elapsed < 1.5


def _kill_jail(repl: REPL) -> None:
    assert repl.sandbox is not None
    launcher = repl.sandbox._driver.children.launcher_pid
    jails = [p for p in psutil.Process(launcher).children(recursive=True) if p.name() == "python3"]
    assert jails
    for jail in jails:
        jail.kill()
    psutil.wait_procs(jails, 5)
    time.sleep(0.2)
