"""``supervisor(query, …)``: a cell hands a question to another supervisor, with its own sandbox."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill import (
    Budget,
    LMResponse,
    ModelHandler,
    Usage,
    build_system_prompt,
    primitive,
    replay,
    resume,
    run,
)
from distill.errors import InputError, ModelError
from distill.sub_questions import AT_ONCE, SUB_RUNS_LIMIT
from distill.traces import Run, read, validate
from tests.distill.scripted import SMALL, Messages, Worker, cell, run_bounded

SUPERVISOR = {"supervisor": "supervisor"}


class Family(ModelHandler):
    """Says, to each question, its replies in order; to one that it was not given, the last."""

    def __init__(self, **replies: Any) -> None:
        self.replies = replies
        self.seen: dict[str, list[list[dict[str, str]]]] = {}
        self.lock = threading.Lock()

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        asked = messages[1]["content"].partition("Question: ")[2].partition("\n")[0]
        place = sum(message["role"] == "assistant" for message in messages)
        with self.lock:
            self.seen.setdefault(asked, []).append([dict(message) for message in messages])
        replies = self.replies.get(asked, ["nothing"])
        reply = replies[min(place, len(replies) - 1)]
        text = reply() if callable(reply) else reply
        if isinstance(text, Exception):
            raise text
        return LMResponse(text, Usage(10, 5), "boss", 0.01)

    def chat_batch(self, message_batches: Any, **kw: Any) -> list[LMResponse]:
        return [self.chat(messages) for messages in message_batches]

    def shown(self, asked: str) -> str:
        """The last message that came with this question."""
        return self.seen[asked][-1][-1]["content"]


@pytest.fixture
def ask_family(log: Path) -> Callable[..., Any]:
    """``run`` with the ``supervisor`` primitive, and this family as supervisor."""

    def ask(family: ModelHandler, **options: Any) -> Any:
        worker = options.pop("worker", None) or Worker()
        options = {"log_dir": log, "limits": SMALL, "primitives": SUPERVISOR, **options}
        context = options.pop("context", "the whole text")
        return run_bounded(lambda: run("root", context, family, worker, **options), 100)

    return ask


def runs_of(log: Path) -> tuple[Run, list[Run]]:
    """The first run of the log, and its sub-runs."""
    trace = read(log)
    (root,) = (each for each in trace.runs.values() if each.start and each.start.parent is None)
    return root, root.sub_runs


# -- what it gives


def test_a_cell_gets_the_answer_of_a_run_of_its_own(ask_family: Any, log: Path) -> None:
    family = Family(
        root=[cell("x = 1\nprint('got', supervisor('deeper', 'a part'))"), cell("FINAL(x)")],
        deeper=[cell("print(context, 'x' in globals())"), cell("FINAL({'n': worker('two')})")],
    )
    result = ask_family(family)
    assert (result.answer, result.iterations, result.sub_runs) == (1, 2, 1)
    assert "got {'n': '<two>'}" in family.shown("root")
    assert "a part False" in family.shown("deeper")
    root, (child,) = runs_of(log)
    (called,) = root.primitives
    assert child.start is not None
    assert child.start.parent is not None
    place = child.start.parent
    assert (place.run, place.cell, place.call, place.item, place.key) == (
        root.id, called.cell, called.call, 0, called.key,
    )  # fmt: skip
    assert child.start.query == "deeper"
    assert child.context() == "a part"
    assert child.answer == called.value == {"n": "<two>"}
    assert child.end is not None
    assert child.end.status == "final"
    assert len(child.calls) == 1
    assert not root.calls


def test_the_whole_tree_is_counted(ask_family: Any, log: Path) -> None:
    family = Family(
        root=[cell("worker('a')\nsupervisor('deeper')"), cell("FINAL(worker_batch(['b', 'c']))")],
        deeper=[cell("worker('d')"), cell("FINAL(1)")],
    )
    seen: list[Any] = []
    result = ask_family(family, on_progress=seen.append)
    assert result.worker_calls == 4
    assert result.worker_usage == Usage(28, 12)
    assert result.supervisor_usage == Usage(40, 20)
    assert max(each.sub_runs for each in seen) == 1
    assert (seen[-1].calls_done, seen[-1].sub_runs) == (4, 0)
    assert {each.run for each in seen} == {result.run_id}
    root, (child,) = runs_of(log)
    assert root.end is not None
    assert child.end is not None
    assert (root.end.worker_calls, child.end.worker_calls) == (3, 1)


def test_its_text_is_the_asking_runs_unless_given(ask_family: Any, log: Path) -> None:
    family = Family(
        root=[cell("FINAL([supervisor('mine'), supervisor('other', ['a', {'b': 1}])])")],
        mine=[cell("FINAL(context)")],
        other=[cell("FINAL(context)")],
    )
    assert ask_family(family).answer == ["the whole text", ["a", {"b": 1}]]
    root, children = runs_of(log)
    assert root.start is not None
    stored = [child.start and child.start.context.sha256 for child in children]
    assert stored[0] == root.start.context.sha256 != stored[1]


def test_what_its_workers_read_of_the_same_text_is_evidence(ask_family: Any) -> None:
    text = "Nobody knew it. " * 20 + "Goliath was killed by David with a stone. " + "No. " * 20
    family = Family(
        root=[cell("FINAL(supervisor('who'))")],
        who=[cell("FINAL(worker('Who killed Goliath? ' + context[300:380]))")],
    )
    result = ask_family(family, context=text, worker=Worker(lambda prompt: "David"))
    assert result.answer == "David"
    assert (result.evidence.answers, result.evidence.agreeing) == (1, 1)
    assert "David" in result.evidence.quotations[0].text


def test_it_has_the_users_functions_and_options_too(ask_family: Any, log: Path) -> None:
    family = Family(
        root=[cell("FINAL(supervisor('deeper', max_iterations=1))")],
        deeper=[cell("print(look('w'), 'y' * 500)"), cell("FINAL(look('z'))")],
    )
    options = {"primitives": {**SUPERVISOR, "look": str.upper}, "output_limit": 120}
    assert ask_family(family, **options).answer == "Z"
    _, (child,) = runs_of(log)
    assert child.start is not None
    assert (child.start.options["max_iterations"], child.start.options["output_limit"]) == (1, 120)
    assert "characters cut" in family.shown("deeper")


def test_another_may_write_its_code(ask_family: Any, log: Path) -> None:
    other = Family(deeper=[cell("FINAL('by another')")])
    other.model = "other"
    family = Family(root=[cell("FINAL(supervisor('deeper'))")])
    assert ask_family(family, sub_supervisor=other).answer == "by another"
    _, (child,) = runs_of(log)
    assert child.start is not None
    assert child.start.supervisor == "other"


# -- how deep, how many


def test_below_the_last_level_there_is_no_such_function(ask_family: Any, log: Path) -> None:
    deep = cell(
        "try: found = supervisor('deep')\nexcept NameError: found = 'deepest'\nFINAL(found)"
    )
    family = Family(root=[cell("FINAL(supervisor('deep'))")], deep=[deep])
    assert ask_family(family, max_depth=3).answer == "deepest"
    assert len(read(log).runs) == 4
    prompts = [each[0]["content"] for each in family.seen["deep"]]
    assert ["`supervisor(" in prompt for prompt in prompts] == [True, True, False]


def test_no_depth_at_all(ask_family: Any, log: Path) -> None:
    family = Family(root=[cell("FINAL('supervisor' in globals())")])
    assert ask_family(family, max_depth=0).answer is False


@pytest.mark.parametrize("depth", [-1, 5])
def test_a_depth_out_of_bounds_is_refused(ask_family: Any, depth: int) -> None:
    with pytest.raises(InputError, match="max_depth"):
        ask_family(Family(), max_depth=depth)


def test_a_list_is_worked_on_at_once_in_bounds(ask_family: Any, log: Path) -> None:
    lock, now, most, pairs = threading.Lock(), [0], [0], threading.Barrier(2)

    def paired() -> str:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        pairs.wait(60)
        with lock:
            now[0] -= 1
        return cell("FINAL(context)")

    code = "FINAL(supervisor(['deeper'] * 6, contexts=list('abcdef')))"
    result = ask_family(Family(root=[cell(code)], deeper=[paired]))
    assert result.answer == list("abcdef")
    assert result.sub_runs == 6
    assert most[0] <= AT_ONCE
    _, children = runs_of(log)
    places = [child.start.parent for child in children if child.start]
    assert sorted(place.item for place in places if place) == list(range(6))


def test_threads_of_a_cell_may_ask(ask_family: Any) -> None:
    code = """\
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(3) as pool: FINAL(list(pool.map(supervisor, ['a', 'b', 'c'])))"""
    replies = {name: [cell(f"FINAL('{name}' * 2)")] for name in "abc"}
    assert ask_family(Family(root=[cell(code)], **replies)).answer == ["aa", "bb", "cc"]


def test_there_is_a_bound_to_their_number(ask_family: Any, log: Path) -> None:
    code = f"try: supervisor(['a'] * {SUB_RUNS_LIMIT + 1})\nexcept LimitError as e: FINAL(str(e))"
    assert f"may start {SUB_RUNS_LIMIT} sub-runs" in ask_family(Family(root=[cell(code)])).answer
    assert len(read(log).runs) == 1


def test_what_they_use_comes_out_of_the_runs_budget(ask_family: Any, log: Path) -> None:
    code = "try: FINAL(worker_batch(list('abc')))\nexcept WorkerBatchError as e: FINAL(e.answers)"
    family = Family(root=[cell("worker('x')\nFINAL(supervisor('deeper'))")], deeper=[cell(code)])
    worker = Worker()
    result = ask_family(family, worker=worker, budget=Budget(worker_calls=3))
    assert result.answer == ["<a>", "<b>", None]
    assert worker.prompts == ["x", "a", "b"]
    assert result.worker_calls == 3


def test_turns_are_of_the_whole_tree(ask_family: Any, log: Path) -> None:
    code = "try: x = supervisor('deeper')\nexcept SubRunError as e: x = str(e)"
    family = Family(root=[cell(code), cell("FINAL(x)")], deeper=[cell("1"), cell("2"), "no"])
    result = ask_family(family, budget=Budget(turns=4))
    turns = sum(len([t for t in each.turns if not t.forced]) for each in read(log).runs.values())
    assert turns <= 4
    assert result.status == "final"


def test_they_leave_their_run_the_time_of_a_last_turn(ask_family: Any, log: Path) -> None:
    code = """
errors = []
for _ in 'twice':
    try: supervisor('deeper')
    except Exception as e: errors.append(str(e))
print(errors)
"""

    def slow() -> str:  # as much time is kept for the last turn
        time.sleep(1.5)
        return cell(code)

    stuck = cell("import time\ntime.sleep(2.5)")
    family = Family(root=[slow, cell("FINAL(len(errors))")], deeper=[stuck])
    result = ask_family(family, budget=Budget(wall_s=6.0))
    assert (result.answer, result.ended_by) == (5, "wall_s")
    root, children = runs_of(log)
    assert "wall time is used up" in root.cells[0].stdout
    assert len(children) < 5
    assert all(each.end is not None for each in children)


# -- what goes wrong


def test_their_failures_are_errors_of_the_cell(ask_family: Any, log: Path) -> None:
    code = """\
for name in ('down', 'endless', 'broken'):
    try: supervisor(name)
    except SubRunError as e: print(type(e).__name__, e)"""
    family = Family(
        root=[cell(code), cell("FINAL('went on')")],
        down=[ModelError("the endpoint is down")],
        endless=[cell("1 / 0"), cell("x = 1")],
        broken=[lambda: dict[str, str]()["no"]],
    )
    assert ask_family(family, max_iterations=2).answer == "went on"
    told = family.shown("root")
    assert "SubRunError the endpoint is down" in told
    assert "SubRunError it ended without an answer, after 2 turns" in told
    assert "SubRunError KeyError" in told
    _, children = runs_of(log)
    ends = [child.end and child.end.status for child in children]
    assert ends == ["failed", "unanswered", "failed"]


def test_some_of_a_list_may_fail(ask_family: Any, log: Path) -> None:
    code = """\
try: supervisor(['good', 'bad', 'good'])
except SubRunError as e: FINAL([str(e), e.answers, e.errors[1]])"""
    family = Family(root=[cell(code)], good=[cell("FINAL(7)")], bad=[ModelError("no")])
    told, answers, reason = ask_family(family).answer
    assert told == "1 of 3 sub-runs failed; item 1: no"
    assert (answers, reason) == ([7, None, 7], "no")


WRONG = {
    "supervisor('')": "the question is empty",
    "supervisor(3)": "the question is empty",
    "supervisor('a', '')": "the context is empty",
    "supervisor('a', 7)": "not int",
    "supervisor('a', max_iterations=0)": "max_iterations",
    "supervisor(['a'], contexts=['x', 'y'])": "contexts",
    "supervisor('a', contexts=['x'])": "contexts",
    "supervisor('a', model='x')": "model",
}


def test_what_can_not_be_asked(ask_family: Any, log: Path) -> None:
    code = f"""\
told = []
for call in {list(WRONG)}:
    try: told.append(eval(call))
    except PrimitiveError as e: told.append(str(e))
FINAL(told)"""
    answers = ask_family(Family(root=[cell(code)])).answer
    for answer, (call, told) in zip(answers, WRONG.items(), strict=True):
        assert told in answer, call
    assert len(read(log).runs) == 1


def test_it_ends_with_the_cell_that_asked(ask_family: Any, log: Path) -> None:
    begun, over = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        over.wait(100)
        return cell("FINAL(1)")

    code = """\
import os, threading
threading.Thread(target=supervisor, args=('deeper',)).start()
begun()
os._exit(1)"""
    family = Family(root=[cell(code), cell("FINAL('on')")], deeper=[slow])
    primitives = {**SUPERVISOR, "begun": primitive(egress=False)(lambda: begun.wait(60))}
    result = ask_family(family, primitives=primitives)
    over.set()
    assert result.answer == "on"
    _, (child,) = runs_of(log)
    assert child.end is not None
    assert child.end.status == "cancelled"


def test_it_ends_with_the_run_that_asked(log: Path) -> None:
    import asyncio

    from distill import arun

    begun, over = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        over.wait(100)
        return cell("FINAL(1)")

    async def cancelled() -> None:
        family = Family(root=[cell("supervisor(['deeper', 'deeper'])")], deeper=[slow])
        task = asyncio.ensure_future(
            arun("root", "text", family, Worker(), log_dir=log, limits=SMALL, primitives=SUPERVISOR)
        )
        await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    deadline_s = time.monotonic() + 60
    while any(each.end is None for each in read(log).runs.values()):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    over.set()
    root, children = runs_of(log)
    ends = [each.end for each in (root, *children)]
    assert {end and end.status for end in ends} == {"cancelled"}
    last = ends[0].t if ends[0] else 0
    assert all(end is not None and end.t <= last for end in ends)


# -- from the log


def test_a_killed_jail_asks_nobody_again(ask_family: Any, log: Path) -> None:
    ask_all = """\
try: got = supervisor(['good', 'bad'])
except SubRunError as e: got = [e.answers, e.errors[1]]"""
    family = Family(
        root=[cell(ask_all), cell("import os; os._exit(1)"), cell("FINAL(got)")],
        good=[cell("FINAL(7)")],
        bad=[ModelError("no")],
    )
    assert ask_family(family).answer == [[7, None], "no"]
    assert len(read(log).runs) == 3


def test_a_recorded_run_is_done_again_without_them(
    ask_family: Any, log: Path, tmp_path: Path
) -> None:
    family = Family(
        root=[cell("x = supervisor('deeper')"), cell("FINAL(x)")], deeper=[cell("FINAL([1, 2])")]
    )
    first = ask_family(family)
    again = replay(log, log_dir=tmp_path / "again")
    assert again.answer == first.answer == [1, 2]
    (alone,) = read(tmp_path / "again").runs.values()
    assert alone.primitives[0].value == [1, 2]
    other = replay(log, Worker(), log_dir=tmp_path / "other")
    assert other.answer == [1, 2]
    assert len(read(tmp_path / "other").runs) == 1


def test_a_run_that_goes_on_has_their_answers_and_their_cost(log: Path) -> None:
    broken = Family(
        root=[cell("x = supervisor('deeper')"), ModelError("down")],
        deeper=[cell("FINAL(worker('w'))")],
    )
    with pytest.raises(ModelError):
        run("root", "text", broken, Worker(), log_dir=log, limits=SMALL, primitives=SUPERVISOR)
    worker = Worker()
    mended = Family(root=["", cell("FINAL(x)")])
    result = resume(log, mended, worker)
    assert (result.answer, result.sub_runs, result.worker_calls) == ("<w>", 1, 1)
    assert worker.prompts == []
    assert mended.seen.keys() == {"root"}
    assert result.supervisor_usage == Usage(30, 15)


def test_a_text_is_not_the_list_that_is_written_with_the_same_bytes(ask_family: Any) -> None:
    code = "FINAL([context, supervisor('deeper', '[\"a\"]')])"
    family = Family(root=[cell(code)], deeper=[cell("FINAL(context)")])
    assert ask_family(family, context=["a"]).answer == [["a"], '["a"]']


def test_a_function_that_makes_their_messages_is_given_again(log: Path) -> None:
    def strict(context: Any, query: str, **facts: Any) -> list[dict[str, str]]:
        first, *others = build_system_prompt(context, query, **facts)
        return [{**first, "content": first["content"] + "RULES"}, *others]

    broken = Family(root=[ModelError("down")])
    options: dict[str, Any] = {"limits": SMALL, "primitives": SUPERVISOR, "messages": strict}
    with pytest.raises(ModelError):
        run("root", "text", broken, Worker(), log_dir=log, **options)
    mended = Family(root=[cell("FINAL(supervisor('deeper'))")], deeper=[cell("FINAL(1)")])
    with pytest.raises(InputError, match="give it again with messages="):
        resume(log, mended, Worker())
    assert mended.seen == {}
    assert resume(log, mended, Worker(), messages=strict).answer == 1
    assert mended.seen["deeper"][0][0]["content"].endswith("RULES")


START = """\
import pathlib, sys
from tests.distill.test_sub_runs import Notes, cut_off
cut_off(pathlib.Path(sys.argv[1]))"""
TREE: dict[str, list[Any]] = {
    "root": [cell("x = 1"), cell("FINAL(supervisor(['a', 'b', 'c']))")],
    "a": [cell("FINAL(worker('quick'))")],
    "b": [cell("x = worker('first')"), cell("FINAL([x, supervisor('deep')])")],
    "c": [cell("FINAL(worker('third'))")],
    "deep": [cell("y = worker('second')"), cell("FINAL(y)")],
}
"""What each question's supervisor says; ``cut_off`` dies before the last of "deep", and of "c"."""


class Notes(Worker):
    """Notes its prompts in a file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        with self.file.open("a") as file:
            file.write(messages[-1]["content"] + "\n")
        return super().chat(messages, **kw)


def cut_off(folder: Path) -> None:
    """The run, in a process that is killed while sub-runs of two levels are open."""
    waits = threading.Barrier(2)

    def die() -> str:
        waits.wait()
        time.sleep(0.5)  # until "a" has ended
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    broken = {**TREE, "deep": [TREE["deep"][0], die], "c": [die]}
    options: dict[str, Any] = {"primitives": SUPERVISOR, "max_depth": 2, "log_dir": folder / "log"}
    run("root", "text", Family(**broken), Notes(folder / "asked"), limits=SMALL, **options)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``cut_off``."""
    folder = tmp_path_factory.mktemp("killed")
    with_tests = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "-c", START, str(folder)]
    assert subprocess.run(words, env=with_tests, check=False).returncode == -signal.SIGKILL
    return folder


def test_what_was_open_at_a_kill_goes_on(tmp_path: Path, killed: Path) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    cut = read(tmp_path / "log").runs
    assert len(cut) == 5
    # As much as all of it takes: what was used before is charged once.
    budget = Budget(worker_calls=4)
    result = resume(tmp_path / "log", Family(**TREE), Notes(tmp_path / "asked"), budget=budget)
    assert result.answer == ["<quick>", ["<first>", "<second>"], "<third>"]
    asked = (tmp_path / "asked").read_text().split()
    assert sorted(asked) == ["first", "quick", "second", "third"], "each was asked once"
    trace, problems = validate(tmp_path / "log")
    assert problems == []
    assert trace.runs.keys() == cut.keys()
    assert (result.sub_runs, result.worker_calls, result.worker_calls_before) == (4, 4, 3)
    turns = sum(len(each.turns) for each in trace.runs.values())
    assert result.supervisor_usage == Usage(10 * turns, 5 * turns)


def test_a_sub_run_does_not_go_on_alone(killed: Path) -> None:
    root, children = runs_of(killed / "log")
    child = next(each for each in children if each.end is None)
    with pytest.raises(InputError, match=f"sub-run of {root.id}"):
        resume(killed / "log", Family(), Worker(), run_id=child.id)


@pytest.mark.slow
def test_what_nobody_asks_for_again_ends(tmp_path: Path, killed: Path) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    log = tmp_path / "log" / "supervisor.jsonl"
    log.write_text(log.read_text().replace("FINAL(supervisor(['a', 'b', 'c']))", "FINAL(x)"))
    result = resume(tmp_path / "log", Family(), Worker())
    assert (result.answer, result.sub_runs, result.worker_calls) == (1, 4, 3)
    trace, problems = validate(tmp_path / "log")
    assert problems == []
    ends = [each.end and each.end.status for each in trace.runs.values()]
    assert sorted(map(str, ends)) == ["cancelled"] * 3 + ["final"] * 2
    (above,) = (run for run in trace.runs.values() if run.sub_runs and len(run.sub_runs) == 1)
    assert above.end is not None
    assert above.end.tree is not None
    assert (above.end.worker_calls, above.end.tree.worker_calls) == (1, 2)
    assert above.end.supervisor_usage.input_tokens == 10 * len(above.turns)
    assert above.end.tree.sub_runs == 1
