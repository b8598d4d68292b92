"""A run whose driver was killed goes on where it stood, and a recorded run is done again."""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from distill import Limits, LMResponse, ModelHandler, Usage, replay, resume, run
from distill.errors import InputError
from distill.traces import read, validate
from tests.distill.scripted import Messages, Supervisor, Worker, cell

WITH_TESTS = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
"""A child imports this module by its name, which bin/test's environment alone does not allow."""
CONTEXT = "A text of some words. " * 50
CELLS = [
    "import random, threading\nfrom concurrent.futures import ThreadPoolExecutor\ntotal = []",
    "total += worker_batch([f'a{i}' for i in range(20)])",
    "with ThreadPoolExecutor(4) as pool: total += sorted(pool.map(worker, 'bcde'))",
    "draws = [worker('same', temperature=1.0) for _ in range(3)]\nprint(len(draws))",
    "open('/tmp/notes', 'w').write('one')\nlucky = random.random()",
    """\
try: total += worker_batch(['f', 'bad', 'g'])
except WorkerBatchError as error: total += [a for a in error.answers if a]""",
    "total += worker_batch([f'h{i}' for i in range(20)])",
    "open('/tmp/notes', 'a').write('two')\nn = 1\n1 / 0",
    "typed = worker('give json', schema={'type': 'object'})",
    "FINAL([total, sorted(draws), lucky, open('/tmp/notes').read(), n, typed, len(context)])",
]


class Boss(ModelHandler):
    """Writes the cells, some to a turn; says one again that was killed."""

    def __init__(self, cells_a_turn: int = 2) -> None:
        self.cells_a_turn = cells_a_turn

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        said = [m["content"] for m in messages if m["role"] == "assistant"]
        if said and "was killed" in messages[-1]["content"]:
            text = said[-1]
        else:
            place = self.cells_a_turn * len(set(said))
            text = "\n\n".join(cell(code) for code in CELLS[place : place + self.cells_a_turn])
        return LMResponse(text, Usage(10, 5), "boss", 0.01)

    def chat_batch(self, message_batches: Any, **kw: Any) -> list[LMResponse]:
        return [self.chat(messages) for messages in message_batches]


class Hand(ModelHandler):
    """Answers slowly, and notes every prompt in a file before it answers."""

    def __init__(self, asked: Path, pause_s: float) -> None:
        self.asked, self.pause_s = asked, pause_s
        self.open: Counter[str] = Counter()
        """Prompts that are being answered."""

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        prompt = messages[-1]["content"]
        with self.asked.open("a") as file:
            file.write(prompt + "\n")
        time.sleep(self.pause_s)
        if prompt == "bad":
            raise ValueError("this prompt is bad")
        return LMResponse('{"a": 1}' if "json" in prompt else f"<{prompt}>", Usage(7, 3), "hand", 0)

    def chat_batch(self, message_batches: Any, **kw: Any) -> list[Any]:
        prompts = Counter(messages[-1]["content"] for messages in message_batches)
        self.open += prompts
        replies: list[Any] = []
        for messages in message_batches:
            try:
                replies.append(self.chat(messages))
            except ValueError as error:
                replies.append(error)
        self.open -= prompts
        errors = {i: r for i, r in enumerate(replies) if isinstance(r, Exception)}
        if errors:
            from distill.errors import WorkerBatchError, WorkerError

            good = [None if i in errors else r for i, r in enumerate(replies)]
            raise WorkerBatchError(
                [r and r.text for r in good],
                {i: WorkerError(str(e)) for i, e in errors.items()},
                len(replies),
                good,
            )
        return replies


def asked_in(folder: Path) -> Counter[str]:
    """How often the worker was asked each prompt."""
    path = folder / "asked"
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def start(folder: Path) -> Any:
    """The whole run, in this process."""
    return run("What?", CONTEXT, Boss(), Hand(folder / "asked", 0.01), log_dir=folder / "log")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Counter[str]]:
    """What the run comes to when nobody kills it."""
    folder = tmp_path_factory.mktemp("whole")
    answer = start(folder).answer
    return answer, asked_in(folder)


def killed_at(folder: Path, delay_s: float) -> float:
    """Start the run in a process of its own and SIGKILL that; how long the run itself had."""
    code = (
        "import sys, pathlib; from tests.distill.test_resume import start;"
        "print('ready', flush=True); start(pathlib.Path(sys.argv[1]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, env=WITH_TESTS
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    log = folder / "log" / "supervisor.jsonl"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (log.exists() and '"message"' in log.read_text()):
        time.sleep(0.005)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return delay_s


def check(folder: Path, whole: tuple[Any, Counter[str]]) -> None:
    """Resume, and hold everything against the run that nobody killed."""
    before = read(folder / "log")
    (cut,) = before.runs.values()
    if cut.end is not None:
        return  # the kill came too late
    open_at_kill = asked_in(folder)
    open_at_kill -= Counter(
        call.messages[-1]["content"] for call in cut.calls if call.messages and call.response
    )
    result = resume(folder / "log", Boss(), Hand(folder / "asked", 0.0))
    answer, asked = whole
    assert result.status == "final"
    assert result.answer == answer
    assert result.run_id == cut.id
    again = asked_in(folder)
    assert again - asked <= open_at_kill
    assert not asked - again
    _, problems = validate(folder / "log")
    assert problems == []
    (after,) = read(folder / "log").runs.values()
    # Not one message was changed: what a provider has cached is still a prefix.
    told = [(m.role, m.content) for m in cut.messages]
    assert [(m.role, m.content) for m in after.messages][: len(told)] == told


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_driver_goes_on(
    tmp_path: Path, whole: tuple[Any, Counter[str]], seed: int
) -> None:
    killed_at(tmp_path, random.Random(seed).uniform(0.0, 2.0))
    check(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 130))
def test_a_killed_driver_goes_on_wherever(
    tmp_path: Path, whole: tuple[Any, Counter[str]], seed: int
) -> None:
    killed_at(tmp_path, random.Random(seed).uniform(0.0, 2.0))
    check(tmp_path, whole)


def test_killed_again_while_it_goes_on(tmp_path: Path, whole: tuple[Any, Counter[str]]) -> None:
    killed_at(tmp_path, 0.5)
    code = (
        "import sys, pathlib; from distill import resume;"
        "from tests.distill.test_resume import Boss, Hand;"
        "folder = pathlib.Path(sys.argv[1]);"
        "resume(folder / 'log', Boss(), Hand(folder / 'asked', 0.01))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=WITH_TESTS)
    log = tmp_path / "log" / "supervisor.jsonl"
    while process.poll() is None and "run_resumed" not in log.read_text():
        time.sleep(0.01)
    time.sleep(0.2)
    process.kill()
    process.wait()
    check(tmp_path, whole)


def kill_cells(folder: Path, seed: int) -> tuple[Any, Counter[str], int]:
    """The run with its jail killed at random moments: its result, what was open then, how often."""
    dice = random.Random(seed)
    hand = Hand(folder / "asked", 0.01)
    open_at_kill: Counter[str] = Counter()
    kills = 0
    over = threading.Event()

    def kill() -> None:
        nonlocal kills
        while not over.wait(dice.uniform(0.05, 0.9)) and kills < 4:
            jails = [p for p in psutil.Process().children(recursive=True) if is_in_run(p)]
            before = hand.open
            for jail in jails:
                with contextlib.suppress(psutil.Error):
                    jail.kill()
                    kills += 1
            time.sleep(0.005)
            open_at_kill.update(before + hand.open)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        result = run("What?", CONTEXT, Boss(1), hand, log_dir=folder / "log", max_iterations=40)
    finally:
        over.set()
        killer.join()
    return result, open_at_kill, kills


def is_in_run(process: psutil.Process) -> bool:
    """Whether this is an interpreter in a jail that has begun a run, not one that stands by."""
    try:
        return process.name() == "python3" and process.memory_info().rss > 0
    except psutil.Error:
        return False


def check_killed_cells(folder: Path, whole: tuple[Any, Counter[str]], seed: int) -> int:
    result, open_at_kill, kills = kill_cells(folder, seed)
    answer, asked = whole
    assert result.answer == answer
    again = asked_in(folder) - asked
    del again["bad"]  # it failed: worth another try
    assert again <= open_at_kill
    (logged,) = read(folder / "log").runs.values()
    lost = [cell for cell in logged.cells if cell.status == "lost"]
    # None where the next jail was killed as well, before it had begun.
    assert all(cell.restored is None or cell.restored.why is None for cell in lost)
    _, problems = validate(folder / "log")
    assert problems == []
    return kills


def test_cells_killed_at_random_moments(tmp_path: Path, whole: tuple[Any, Counter[str]]) -> None:
    kills = 0
    for seed in range(5):
        (tmp_path / str(seed)).mkdir()
        kills += check_killed_cells(tmp_path / str(seed), whole, seed)
    assert kills > 0


@pytest.mark.slow
def test_cells_killed_at_a_hundred_points(tmp_path: Path, whole: tuple[Any, Counter[str]]) -> None:
    kills = 0
    for seed in itertools.count(1000):
        (tmp_path / str(seed)).mkdir()
        kills += check_killed_cells(tmp_path / str(seed), whole, seed)
        if kills >= 100:
            return


def test_a_failed_run_goes_on(tmp_path: Path) -> None:
    broken = Supervisor(cell("x = worker('one')"), ValueError("the endpoint is down"))
    with pytest.raises(Exception, match="endpoint is down"):
        run("What?", CONTEXT, broken, Worker(), log_dir=tmp_path)
    worker = Worker()
    result = resume(tmp_path, Supervisor(cell("FINAL(x)")), worker)
    assert result.answer == "<one>"
    assert result.worker_calls == 1
    assert worker.prompts == []
    assert result.supervisor_usage.input_tokens == 20


def test_what_can_not_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a log folder"):
        resume(tmp_path, Supervisor(), Worker())
    run("What?", CONTEXT, Supervisor(cell("FINAL(1)")), Worker(), log_dir=tmp_path)
    with pytest.raises(InputError, match="has ended"):
        resume(tmp_path, Supervisor(), Worker())
    with pytest.raises(InputError, match="no run nine"):
        resume(tmp_path, Supervisor(), Worker(), run_id="nine")


def test_limits_that_a_run_goes_on_with_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be a distill\.Limits, not dict"):
        resume(tmp_path, Supervisor(), Worker(), limits={"cell_s": 5})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cell_s can't be 0 s"):
        resume(tmp_path, Supervisor(), Worker(), limits=Limits(cell_s=0))


def test_functions_of_the_caller_must_be_given_again(tmp_path: Path) -> None:
    broken = Supervisor(cell("x = look('here')"), ValueError("down"))
    seen: list[str] = []

    def look(place: str) -> str:
        seen.append(place)
        return f"seen {place}"

    with pytest.raises(Exception, match="down"):
        run("What?", CONTEXT, broken, Worker(), log_dir=tmp_path, primitives={"look": look})
    with pytest.raises(InputError, match="look"):
        resume(tmp_path, Supervisor(), Worker())
    supervisor = Supervisor(cell("FINAL([x, look('there')])"))
    result = resume(tmp_path, supervisor, Worker(), primitives={"look": look})
    assert result.answer == ["seen here", "seen there"]
    assert seen == ["here", "there"]


def test_a_recorded_run_is_done_again(tmp_path: Path, whole: tuple[Any, Counter[str]]) -> None:
    first = start(tmp_path)
    asked = (tmp_path / "asked").read_text()
    again = replay(tmp_path / "log", log_dir=tmp_path / "again")
    assert again.answer == first.answer == whole[0]
    assert (tmp_path / "asked").read_text() == asked
    (one,) = read(tmp_path / "log").runs.values()
    (two,) = read(tmp_path / "again").runs.values()
    assert [c.code for c in two.cells] == [c.code for c in one.cells]
    assert [c.stdout for c in two.cells] == [c.stdout for c in one.cells]
    assert {call.source for call in two.calls} == {"replayed"}


def test_a_replay_of_a_run_that_was_resumed(
    tmp_path: Path, whole: tuple[Any, Counter[str]]
) -> None:
    killed_at(tmp_path, 0.6)
    check(tmp_path, whole)
    again = replay(tmp_path / "log", log_dir=tmp_path / "again")
    assert again.answer == whole[0]
    assert again.replay is not None
    assert again.replay.differing == ()


def test_the_log_is_one_json_object_a_line(tmp_path: Path) -> None:
    killed_at(tmp_path, 0.4)
    resume(tmp_path / "log", Boss(), Hand(tmp_path / "asked", 0.0))
    for line in (tmp_path / "log" / "supervisor.jsonl").read_text().splitlines():
        assert not line or json.loads(line)


def test_a_run_goes_on_with_its_own_limits_and_packages(tmp_path: Path) -> None:
    broken = Supervisor(cell("import numpy\nx = int(numpy.arange(4).sum())"), ValueError("down"))
    limits = Limits(memory_bytes=300 << 20, open_files=77)
    with pytest.raises(Exception, match="down"):
        run("What?", CONTEXT, broken, Worker(), log_dir=tmp_path, limits=limits,
            sandbox_packages=("numpy",))  # fmt: skip
    code = "import numpy, resource\nFINAL([x, resource.getrlimit(resource.RLIMIT_NOFILE)[0]])"
    assert resume(tmp_path, Supervisor(cell(code)), Worker()).answer == [6, 77]
