"""Many tasks in Python: results, scores, failures, and going on, over scripted HTTP endpoints."""

import asyncio
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from distill import Budget, Evaluation, OpenAIHandler, Task, aevaluate, evaluate
from distill.errors import BudgetError, InputError
from distill.evaluator import EvaluationProgress
from distill.scorers import Sample
from distill.standings import dollars_of
from distill.supervisor.shared_context import shared_context
from distill.texts import Texts
from distill.traces import read, validate
from tests.distill.scripted import (
    SMALL,
    Endpoint,
    Reply,
    Supervisor,
    cell,
    endpoint,
    prompt_of,
    run_bounded,
)
from tests.supervisor.processes import wait_until

TEXT = "some text " * 20
CELLS = {
    "right": "FINAL(len(worker_batch([context, 'b'])))",
    "wrong": "FINAL(len(context))",
    "partly": """\
try: worker_batch(['b', 'refused'])
except WorkerBatchError: FINAL(len(context))""",
    "nothing": "FINAL(None)",
    "killed": "import os\nos._exit(9)",
    "greedy": "x = bytearray(1 << 34)\nFINAL(1)",
}
REFUSED = Reply({"error": {"message": "you may not"}}, 401)


def boss(request: dict[str, Any]) -> Any:
    """Writes the cell that the question names; what was killed or failed ends in the next turn."""
    if any(message["role"] == "assistant" for message in request["messages"]):
        return cell("FINAL('at last')")
    (kind,) = re.findall(r"do (\w+)", prompt_of(request))
    return REFUSED if kind == "refused" else cell(CELLS[kind])


def answer(request: dict[str, Any]) -> Any:
    return REFUSED if prompt_of(request) == "refused" else "yes"


def task(name: str, kind: str = "right", **fields: Any) -> dict[str, Any]:
    own = {"context": TEXT} if "path" not in fields else {}
    return {"id": name, "query": f"do {kind}", "label": 2, **own, **fields}


class Desk:
    """A supervisor and a worker behind endpoints, and evaluations with them in one folder."""

    def __init__(self, folder: Path, boss: Endpoint, worker: Endpoint) -> None:
        self.folder = folder
        self.boss, self.worker = boss, worker
        self.log = folder / "results.logs"

    def evaluate(self, *tasks: Any, **options: Any) -> Evaluation:
        options = {"results": self.folder / "results.jsonl", "limits": SMALL, **options}
        models = [OpenAIHandler("scripted", each.url, "none") for each in (self.boss, self.worker)]
        given = options.pop("tasks", list(tasks))
        done: Evaluation = run_bounded(lambda: evaluate(given, *models, **options), 60)
        if (self.log / "supervisor.jsonl").exists():
            assert validate(self.log)[1] == []
        return done

    @property
    def lines(self) -> list[dict[str, Any]]:
        text = (self.folder / "results.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with endpoint(boss) as supervisor, endpoint(answer) as worker:
        yield Desk(tmp_path, supervisor, worker)


def test_one_bad_task_never_stops_the_others(desk: Desk) -> None:
    (desk.folder / "empty.txt").write_text("")
    heard: list[EvaluationProgress] = []
    done = desk.evaluate(
        task("a"),
        task("b", "refused"),
        task("c", "killed", label="at last"),
        task("d", path=str(desk.folder / "no.txt")),
        task("e", "wrong"),
        task("f", "nothing"),
        task("g", path=str(desk.folder / "empty.txt")),
        task("h", "greedy", label=None),
        task("i", "wrong", context={"x": TEXT}, label=[2], options={"max_iterations": 1}),
        concurrency=3,
        on_progress=heard.append,
    )
    ends = {each.task: (each.status, each.answer, each.score) for each in done.results}
    assert list(ends) == list("abcdefghi"), "in the order of the tasks"
    assert ends["a"] == ("final", 2, 1.0)
    assert ends["c"] == ("final", "at last", 1.0), "a killed jail costs a cell"
    assert ends["e"] == ("final", len(TEXT), 0.0)
    assert ends["f"] == ("final", None, 0.0), "no answer is not right"
    assert ends["h"][:2] == ("final", "at last")
    assert ends["i"] == ("final", 1, 0.0)
    errors = {each.task: each.error for each in done.results if each.error}
    assert {name: error.kind for name, error in errors.items()} == {
        "b": "ModelError", "d": "InputError", "g": "InputError",
    }  # fmt: skip
    assert "no.txt" in errors["d"].detail
    unscored = [line["task"] for line in desk.lines if "score" not in line]
    assert sorted(unscored) == ["b", "d", "g", "h"], "absent, not 0"
    summary = done.summary
    assert summary.failures == {"InputError": 2, "ModelError": 1}
    assert (summary.answered, summary.unanswered, summary.failed) == (5, 1, 3)
    assert (summary.scored, summary.right, summary.accuracy) == (5, 2.0, 0.4)
    assert summary.accuracy_of_all == 2 / 8
    assert summary.exit_code == InputError.exit_code, "the most frequent failure's"
    assert summary.worker_calls == 2
    assert summary.worker_usage.input_tokens == 2 * 11
    assert json.loads(done.summary_file.read_text())["right"] == 2.0
    assert (heard[0].done, heard[-1].done, heard[-1].total) == (0, 9, 9)
    assert max(each.running for each in heard) <= 3
    assert heard[-1].left_s == 0
    assert (heard[-1].failed, heard[-1].accuracy) == (3, summary.accuracy)
    assert heard[-1].dollars == summary.dollars
    used = (summary.supervisor_usage, summary.worker_usage)
    assert heard[-1].tokens == sum(each.input_tokens + each.output_tokens for each in used)


def test_all_runs_are_in_one_log_and_joined_by_their_id(desk: Desk) -> None:
    (desk.folder / "t.txt").write_text(TEXT)
    path = str(desk.folder / "t.txt")
    done = desk.evaluate(*(task(str(n), path=path, attempts=2) for n in range(3)))
    runs = read(done.log_dir).runs
    assert len(runs) == 6
    for result in done.results:
        run = runs[result.run_id or ""]
        assert run.start is not None
        assert run.start.label == result.task
        assert run.start.context.sources == (path,)
        assert run.answer == result.answer
    assert [(each.task, each.attempt) for each in done.results] == [
        (str(n), attempt) for n in range(3) for attempt in (1, 2)
    ]
    assert len(list((done.log_dir / "contexts").iterdir())) == 1


def test_what_has_a_result_is_not_run_again(desk: Desk) -> None:
    first = [task("a"), task("b", "refused")]
    desk.evaluate(*first)
    asked = len(desk.boss.requests)
    done = desk.evaluate(*first, task("c"))
    assert len(desk.boss.requests) == asked + 1
    assert [each.status for each in done.results] == ["final", "failed", "final"]
    desk.boss.answer = lambda _: cell("FINAL(2)")
    done = desk.evaluate(*first, retry_errors=True)
    assert [each.score for each in done.results] == [1.0, 1.0]
    assert sorted(line["task"] for line in desk.lines) == ["a", "b", "b", "c"]
    assert len(desk.boss.requests) == asked + 2


def test_another_scorer_scores_again_and_asks_nobody(desk: Desk) -> None:
    desk.evaluate(task("a", "wrong", label=1))
    asked = len(desk.boss.requests)

    def near(sample: Sample) -> float:
        return float(abs(sample.answer - sample.label) < 1000)

    done = desk.evaluate(task("a", "wrong", label=1), scorer=near)
    assert (done.summary.scorer, done.summary.accuracy) == ("near", 1.0)
    done = desk.evaluate(task("a", "wrong", label=len(TEXT)), scorer="number")
    assert done.summary.accuracy == 1.0
    assert len(desk.boss.requests) == asked
    assert [line["scorer"] for line in desk.lines] == ["exact", "near", "number"]


def test_a_run_that_was_cut_off_goes_on_from_its_trace(desk: Desk) -> None:
    """Cancelled, as by Ctrl-C: the calls that were answered are not asked again."""
    code = "a = worker_batch(['one', 'two'])\nb = worker('held')\nFINAL(len(a) + len(b))"
    desk.boss.answer = lambda _: cell(code)
    held, let_go = asyncio.Event(), threading.Event()
    loop = asyncio.new_event_loop()

    def answer(request: dict[str, Any]) -> str:
        if prompt_of(request) == "held" and not let_go.is_set():
            loop.call_soon_threadsafe(held.set)
            let_go.wait(60)
        return "yes"

    desk.worker.answer = answer
    tasks = [task(name, label=5) for name in "ab"]

    async def cut_off() -> None:
        models = [OpenAIHandler("scripted", e.url, "none") for e in (desk.boss, desk.worker)]
        results = desk.folder / "results.jsonl"
        going = asyncio.ensure_future(aevaluate(tasks, *models, results=results, limits=SMALL))
        await held.wait()
        await asyncio.to_thread(wait_until, lambda: len(desk.worker.requests) == 6, 40)
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going

    loop.run_until_complete(cut_off())
    loop.close()
    let_go.set()
    summary = desk.folder / "results.summary.json"
    wait_until(summary.exists, 10)
    assert json.loads(summary.read_text())["ended"] == 0
    assert desk.lines == []
    asked = len(desk.boss.requests)
    done = desk.evaluate(*tasks)
    assert [each.score for each in done.results] == [1.0, 1.0]
    assert len(desk.boss.requests) == asked, "the reply was in the log"
    assert len(desk.worker.requests) == 6 + 2, "only what was open is asked again"
    assert len(read(done.log_dir).runs) == 2


def test_a_result_that_was_never_written_is_in_the_log(desk: Desk) -> None:
    desk.evaluate(task("a"), task("b", "partly"))
    kept = desk.lines[0]
    (desk.folder / "results.jsonl").write_text(f'{json.dumps(kept)}\n{{"task": "b", "att')
    asked = len(desk.boss.requests)
    done = desk.evaluate(task("a"), task("b", "partly"))
    assert [each.answer for each in done.results] == [2, len(TEXT)]
    assert [each.score for each in done.results] == [1.0, 0.0]
    assert [each.worker_failures for each in done.results] == [0, 1]
    assert len(desk.boss.requests) == asked
    other = [task("a"), task("c", "partly")]
    assert desk.evaluate(*other).results[1].task == "c", "another task is asked"
    assert len(desk.boss.requests) == asked + 1


def test_what_sub_runs_took_counts_without_a_result_too(desk: Desk) -> None:
    """That of a run which fails, and of one whose result was never written."""

    def answer(request: dict[str, Any]) -> Any:
        told = json.dumps(request["messages"])
        if "Question: deeper" in told:
            return cell("FINAL(worker('w'))")
        turns = sum(message["role"] == "assistant" for message in request["messages"])
        if turns == 0:
            return cell("x = supervisor('deeper')")
        return REFUSED if "do refused" in told else cell("FINAL(x)")

    desk.boss.answer = answer
    price = {"models": ["scripted"], "input": 1.0, "output": 2.0}
    options = {"primitives": ["supervisor"], "prices": {"models": [price]}}
    tasks = [task("a"), task("b", "refused")]
    answered, failed = desk.evaluate(*tasks, **options).results
    (desk.folder / "results.jsonl").unlink()
    desk.boss.answer = lambda _: REFUSED
    recorded = desk.evaluate(tasks[0], **options).results[0]
    assert (answered.answer, recorded.answer, failed.status) == ("yes", "yes", "failed")
    turn = 11 + 2 * 4
    for result, turns in ((answered, 3), (recorded, 3), (failed, 2)):
        assert result.worker_calls == 1
        assert result.supervisor_usage.input_tokens == 11 * turns
        assert result.worker_usage.input_tokens == 11
        assert result.dollars == pytest.approx((turns + 1) * turn / 1e6)


def test_results_of_something_else_are_refused(desk: Desk) -> None:
    desk.evaluate(task("a"))
    asked = len(desk.boss.requests)
    with pytest.raises(InputError, match="another question, text or options for the task 'a'"):
        desk.evaluate(task("a", context="another text"))
    results = desk.folder / "results.jsonl"
    with pytest.raises(InputError, match="answers of the supervisor scripted, not recipe:find"):
        evaluate([task("a")], "recipe:find", OpenAIHandler("m", desk.worker.url), results=results)
    (desk.folder / "other.jsonl").write_text(json.dumps(task("a")))
    with pytest.raises(InputError, match=r"other.jsonl, line 1 is no result of a task"):
        desk.evaluate(task("a"), results=desk.folder / "other.jsonl")
    with pytest.raises(InputError, match="can't be used: Is a directory"):
        desk.evaluate(task("a"), results=desk.folder)
    assert len(desk.boss.requests) == asked


Refusal = Callable[[Any], Any]
REFUSED_ARGUMENTS: dict[str, tuple[Refusal, type[Exception], str]] = {
    "no concurrency": (
        lambda m: evaluate([task("a")], m, m, concurrency=0), InputError, "concurrency is 1 to",
    ),
    "an unknown option": (
        lambda m: evaluate([task("a")], m, m, max_turns=3), TypeError, "argument 'max_turns'",
    ),
    "a label for all": (
        lambda m: evaluate([task("a")], m, m, label="x"), TypeError, "argument 'label'",
    ),
    "an adapter": (
        lambda m: evaluate([task("a", options={"adapter": "x"})], m, m), InputError, "'adapter'",
    ),
    "an option of a task": (
        lambda m: evaluate([task("a", options={"x": 1})], m, m), InputError, "task 'a': bad option",
    ),
    "an unknown scorer": (
        lambda m: evaluate([task("a")], m, m, scorer="best"), InputError, "no scorer 'best'",
    ),
    "no worker": (lambda m: evaluate([task("a")], m, m.model), InputError, "worker must be"),
    "a replay": (
        lambda m: evaluate([task("a")], "replay:x", m), InputError, "one recorded run again",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED_ARGUMENTS)
def test_an_argument_that_can_not_be_used(kind: str, desk: Desk) -> None:
    call, error, said = REFUSED_ARGUMENTS[kind]
    with pytest.raises(error, match=said):
        call(OpenAIHandler("scripted", desk.boss.url, "none"))
    assert desk.boss.requests == []


def test_a_results_file_has_one_writer(desk: Desk) -> None:
    refused: list[str] = []

    def meddle(request: dict[str, Any]) -> str:
        with pytest.raises(InputError) as raised:
            desk.evaluate(task("b"))
        refused.append(str(raised.value))
        return cell("FINAL(2)")

    desk.boss.answer = meddle
    assert desk.evaluate(Task(**task("a"))).summary.right == 1
    assert "another distill is writing to" in refused[0]


def test_what_it_cost_and_which_budget_ended_it(desk: Desk) -> None:
    price = {"models": ["scripted"], "input": 1.0, "output": 2.0}
    done = desk.evaluate(
        task("a"),
        task("b", options={"max_worker_calls": 1}),
        prices={"models": [price]},
        budget=Budget(dollars=1.0),
    )
    first, second = done.results
    # One turn and two calls, each of 11 tokens in and 4 out.
    assert first.dollars == pytest.approx(3 * (11 + 2 * 4) / 1e6)
    assert first.ended_by is None
    assert (second.ended_by, second.answer) == ("worker_calls", "at last")
    assert first.dollars is not None
    assert second.dollars is not None
    summary = done.summary
    assert summary.dollars == pytest.approx(first.dollars + second.dollars)
    assert summary.dollars_per_right == summary.dollars
    assert summary.ended_by == {"worker_calls": 1}
    free = desk.evaluate(task("c"), results=desk.folder / "x.jsonl")
    assert free.summary.dollars == 0, "an endpoint of this machine"
    unknown = msgspec.structs.replace(first, dollars=None)
    assert dollars_of([unknown, second]) is None


def test_all_runs_together_have_a_limit_and_go_on_under_a_higher_one(desk: Desk) -> None:
    price = {"models": ["scripted"], "input": 1.0, "output": 2.0}
    one = 3 * (11 + 2 * 4) / 1e6
    tasks = [task("a"), task("b"), task("c")]
    options: dict[str, Any] = {"prices": {"models": [price]}, "concurrency": 1}
    with pytest.raises(BudgetError, match=r"for all tasks are used up.*--max-dollars-total"):
        # The first ends below it, the first reply of the second is above.
        desk.evaluate(*tasks, max_dollars_total=1.1 * one, **options)
    assert [line["task"] for line in desk.lines] == ["a"]
    assert len(desk.boss.requests) == 2
    with pytest.raises(BudgetError, match="are used up"):
        desk.evaluate(*tasks, max_dollars_total=0.5 * one, **options)
    assert len(desk.boss.requests) == 2, "what has a result counts"
    done = desk.evaluate(*tasks, max_dollars_total=4 * one, **options)
    assert [result.answer for result in done.results] == [2, 2, 2]
    assert done.summary.dollars == pytest.approx(3 * one)
    assert len(desk.boss.requests) == 3, "what was paid for is not asked again"
    with pytest.raises(InputError, match="budget's dollars must be a number"):
        desk.evaluate(*tasks, max_dollars_total=-1.0)


def test_dollars_that_nobody_knows_can_not_be_limited(desk: Desk, tmp_path: Path) -> None:
    class Paid(Supervisor):
        endpoint = "dear.example.com"
        model = "dear"

    worker = OpenAIHandler("scripted", desk.worker.url, "none")
    with pytest.raises(InputError, match="a model has no price"):
        evaluate(
            [task("a")],
            Paid(cell("FINAL(1)")),
            worker,
            max_dollars_total=1.0,
            results=tmp_path / "paid.jsonl",
        )


def test_a_text_is_read_once_while_it_is_in_use(tmp_path: Path) -> None:
    texts = Texts()
    file = tmp_path / "t.txt"
    file.write_text("one")
    held = texts.read([str(file)])
    assert texts.read([str(file)]) is held
    file.write_text("another")
    changed = texts.read([str(file)])
    assert (held.context, changed.context) == ("one", "another")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.txt").write_text("a")
    folder = texts.read([str(tmp_path / "more")])
    (tmp_path / "more" / "b.txt").write_text("b")
    assert texts.read([str(tmp_path / "more")]).context == {**folder.context, "b.txt": "b"}


def test_runs_about_one_text_share_what_is_made_of_it() -> None:
    text = "some words of a text " * 100
    first = shared_context("hash", text)
    assert shared_context("hash", str(text)) is first
    one, two = first.index(), first.index()
    one.spans(text[100:300])
    one.forget()
    assert (one.spans(text[100:300]), len(two.spans(text[100:300]))) == ((), 1)
    files = [first.file(text, text), first.file(text, text), first.file(text, "another")]
    inodes = [os.fstat(file.fileno()).st_ino for file in files]
    assert inodes[0] == inodes[1] != inodes[2]
    for file in files:
        file.close()
    del first
    assert shared_context("hash", "other").index().spans(text[100:300]) == ()
