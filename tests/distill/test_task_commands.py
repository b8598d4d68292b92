"""``--tasks`` as a person uses it: with an engine of its own, and with one that is up."""

import json
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from distill import Engine, OpenAIHandler, estimate, evaluate
from distill.cli import cli
from distill.errors import InputError
from distill.traces import read, validate
from tests.distill.commands import QUESTION, Command, command, command_beside, engine
from tests.distill.commands import TEXT as LONG_TEXT
from tests.distill.scripted import Endpoint, Supervisor, Worker, cell, endpoint, prompt_of
from tests.supervisor.processes import kill, wait_until

CODE = "a = worker_batch([query, 'b'])\nFINAL([len(context), a[0]])"
TEXT = "some text " * 30
NOBODY = "http://127.0.0.1:9/v1"
HOLD_S = 60.0


class Desk:
    """A folder with tasks, and endpoints for both models.

    Prompts with ``hold`` wait until ``let_go`` is set.
    """

    def __init__(self, folder: Path, boss: Endpoint) -> None:
        self.folder = folder
        self.boss = boss
        self.let_go = threading.Event()
        self.prompts: Counter[str] = Counter()
        (folder / "t.txt").write_text(TEXT)

    def answer(self, request: dict[str, Any]) -> str:
        prompt = prompt_of(request)
        self.prompts[prompt] += 1
        if "hold" in prompt:
            self.let_go.wait(HOLD_S)
        return "yes"

    def write(self, *queries: str, **fields: Any) -> Path:
        """Tasks t0, t1, … with these queries, about t.txt."""
        file = self.folder / "tasks.jsonl"
        own = {"path": "t.txt", "label": [str(len(TEXT))], **fields}
        lines = [{"id": f"t{n}", "query": query, **own} for n, query in enumerate(queries)]
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return file

    def asks(self, tasks: Path, *words: str) -> tuple[str, ...]:
        supervisor = ("--supervisor", "scripted", "--base-url", self.boss.url)
        return ("--tasks", str(tasks), *supervisor, "--scorer", "contains", *words)

    def lines(self, name: str = "tasks.results.jsonl") -> list[dict[str, Any]]:
        file = self.folder / name
        text = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def desk(short: Path) -> Iterator[Desk]:
    with endpoint(lambda _: cell(CODE)) as boss:
        desk = Desk(short, boss)
        yield desk
        desk.let_go.set()


@pytest.fixture
def worker(desk: Desk) -> Iterator[Endpoint]:
    with endpoint(desk.answer) as server:
        yield server


def of(server: Endpoint) -> tuple[str, ...]:
    return ("--worker-url", server.url, "--worker", "scripted")


def test_up_runs_the_tasks_and_ends(desk: Desk, worker: Endpoint) -> None:
    tasks = desk.write("one", "two", "three", attempts=2)
    with tasks.open("a") as file:
        file.write(json.dumps({"id": "gone", "query": "?", "path": "no.txt", "label": 1}))
    done = command(desk.folder, "up", *desk.asks(tasks, "--concurrency", "3"), *of(worker))
    assert done.code == 2, "the most frequent failure's"
    for said in (
        "4, 7 attempts",
        "6 answered",
        "1 failed",
        "1 × InputError, the first: there is no file",
        "Score       1.000",
    ):
        assert said in done.out, done.out
    assert len(desk.lines()) == 7
    summary = json.loads((desk.folder / "tasks.results.summary.json").read_text())
    assert (summary["right"], summary["accuracy"]) == (6.0, 1.0)
    assert summary["accuracy_of_all"] == 6 / 7
    again = command(desk.folder, "up", *desk.asks(tasks), "--worker", "m", "--worker-url", NOBODY)
    assert (again.code, "6 answered" in again.out) == (2, True), "without any worker"
    trace, problems = validate(desk.folder / "tasks.results.logs")
    assert problems == []
    assert set(trace.runs) == {line["run_id"] for line in desk.lines() if not line["error"]}


def test_ctrl_c_ends_in_order_and_the_same_command_goes_on(desk: Desk, worker: Endpoint) -> None:
    tasks = desk.write("hold one", "two", "hold three")
    words = desk.asks(tasks, "--concurrency", "2", "--results", str(desk.folder / "r.jsonl"))
    with engine(desk.folder, worker):
        asked = Command(desk.folder, "run", *words)
        try:
            wait_until(lambda: desk.prompts["hold one"] + desk.prompts["hold three"] == 2, 30)
            wait_until(lambda: len(desk.lines("r.jsonl")) == 1, 20)
            asked.interrupt()
            done = asked.done()
        finally:
            asked.end()
        assert done.code == 130
        assert "1 of 3 attempts have a result" in done.err
        assert "the same command goes on" in done.err
        desk.let_go.set()
        calls = sum(desk.prompts.values())
        replies = len(desk.boss.requests)
        done = Command(desk.folder, "run", *words).done()
    assert done.code == 0, done.err
    assert len(desk.boss.requests) == replies, "what the supervisor had said is in the log"
    assert sum(desk.prompts.values()) <= calls + 4, "only what was open is asked again"
    assert sorted(line["score"] for line in desk.lines("r.jsonl")) == [1.0] * 3
    assert len(read(desk.folder / "r.logs").runs) == 3


@pytest.mark.slow
def test_an_engine_that_dies_costs_no_task_its_turn(desk: Desk, worker: Endpoint) -> None:
    tasks = desk.write("one", "hold two", "three", "hold four")
    with engine(desk.folder, worker) as up:
        asked = Command(desk.folder, "run", *desk.asks(tasks, "--concurrency", "3"))
        try:
            wait_until(lambda: len(desk.lines()) == 2, 30)
            kill(up.pid, signal.SIGKILL)
            done = asked.done()
        finally:
            asked.end()
    assert done.code == 3, done.err
    assert "the engine has ended" in done.err
    assert "2 of 4 attempts have a result" in done.err
    assert [line["error"] for line in desk.lines()] == [None, None]


def test_tasks_of_a_program_through_an_engine(desk: Desk, worker: Endpoint) -> None:
    """Asked at once over one connection, also from several threads."""
    texts = [TEXT, [TEXT, "x"], {"a": TEXT}]
    tasks = [
        {"id": str(n), "query": "hold it", "context": text, "label": str(len(text))}
        for n, text in enumerate(texts)
    ]
    options: dict[str, Any] = {"base_url": desk.boss.url, "results": desk.folder / "r.jsonl"}
    with engine(desk.folder, worker) as up:
        endpoint = up.err.partition("distill.Engine('")[2].partition("'")[0]
        with Engine(endpoint) as client, ThreadPoolExecutor(2) as pool:
            going = pool.submit(evaluate, tasks, "scripted", client, scorer="contains", **options)
            wait_until(lambda: desk.prompts["hold it"] == 3, 30)
            assert pool.submit(client.status).result().runs == 3
            desk.let_go.set()
            done = going.result()
            assert client.status().runs_total == 3
            with pytest.raises(InputError, match="bad option"):
                evaluate(tasks, "scripted", client, **options, max_turn=3)
            with pytest.raises(InputError, match="an engine's supervisor is a name"):
                evaluate(tasks, OpenAIHandler("m", desk.boss.url), client, **options)
    assert [result.answer for result in done.results] == [[len(t), "yes"] for t in texts]
    assert done.summary.accuracy == 1.0
    assert done.results[0].worker == "scripted"


def test_a_dry_run_adds_up_what_is_left(desk: Desk, worker: Endpoint) -> None:
    prices = desk.folder / "prices.toml"
    prices.write_text('[[models]]\nmodels = ["scripted"]\ninput = 1\noutput = 2\n')
    tasks = desk.write("one", "two", attempts=2, path=None, context=TEXT)
    asked = (*desk.asks(tasks, "--prices", str(prices)), *of(worker))
    two = command(desk.folder, "up", *asked, "--dry-run", "--max-dollars-total", "0.5")
    assert two.code == 0, two.err
    assert "Tasks       2, 4 attempts without a result" in two.out
    assert "up to 60 turns" in two.out
    assert re.search(r"Cost +about \$0\.[0-9]+ for the supervisor in all", two.out)
    assert "Limits      of each run: $5.0000; of all: $0.5000" in two.out
    assert desk.boss.requests == []
    assert desk.prompts == {}
    assert desk.lines() == []
    long = desk.write(QUESTION, attempts=2, path=None, context=LONG_TEXT)
    recipe = ("--tasks", str(long), "--supervisor", "recipe:find", *of(worker))
    counted = command(desk.folder, "up", *recipe, "--dry-run")
    once = estimate(QUESTION, LONG_TEXT, "recipe:find", OpenAIHandler("scripted", worker.url))
    assert once.worker_calls
    assert f"scripted: {2 * once.worker_calls} calls, about" in counted.out
    assert desk.prompts == {}


def test_a_dry_run_names_the_task_whose_text_is_missing(desk: Desk, worker: Endpoint) -> None:
    asked = (*desk.asks(desk.write("one", path="no.txt")), *of(worker))
    done = CliRunner().invoke(cli, ["up", *asked, "--dry-run"])
    assert getattr(done.exception, "code", None) == 2, done.output
    assert "task 't0': " in done.output
    assert "no.txt" in done.output


@pytest.mark.slow
def test_an_engine_adds_up_what_is_left(desk: Desk, worker: Endpoint) -> None:
    inline = desk.write("one", path=None, context=[TEXT], attempts=3).read_text()
    tasks = desk.write("two", id="files")
    tasks.write_text(tasks.read_text() + inline)
    with engine(desk.folder, worker):
        dry = command_beside(desk.folder, "run", *desk.asks(tasks), "--dry-run")
    assert dry.code == 0, dry.err
    assert "Tasks       2, 4 attempts without a result" in dry.out
    assert "up to 60 turns" in dry.out
    assert desk.boss.requests == []


# -- what bad input gets


def said(*words: str) -> Result:
    return CliRunner().invoke(cli, ["run", *words], standalone_mode=False)


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "a bad line": (("--tasks", "{bad}"), "line 2: "),
    "a question too": (("--tasks", "{good}", "-q", "What?"), "leave out -c and -q"),
    "a label": (("--tasks", "{good}", "--label", "x"), "--label is for one question"),
    "a run to resume": (("--tasks", "{good}", "--resume", "x"), "--resume is for one question"),
    "an unknown scorer": (("--tasks", "{good}", "--scorer", "best"), "no scorer 'best'"),
    "results that are none": (("--tasks", "{good}", "--results", "{good}"), "is no result"),
    "a missing file": (("--tasks", "{missing}", "--check"), "no.txt"),
    "an option of a task": (("--tasks", "{option}"), "task 't0': bad option"),
    "results without tasks": (("-q", "?", "--results", "x"), "--results is for --tasks"),
    "a check without tasks": (("-q", "?", "--check"), "--check is for --tasks"),
}


@pytest.mark.parametrize("kind", BAD)
def test_tasks_that_can_not_be_run(
    desk: Desk, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"bad": f"{desk.write('one').read_text()}nope\n"}
    files["missing"] = desk.write("one", path="no.txt").read_text()
    files["option"] = desk.write("one", options={"x": 1}).read_text()
    files["good"] = desk.write("one").read_text()
    places = {name: str(desk.folder / f"{name}.jsonl") for name in files}
    for name, text in files.items():
        Path(places[name]).write_text(text)
    words, told = BAD[kind]
    result = said(*(word.format(**places) for word in words))
    assert getattr(result.exception, "code", None) == 2, result.output
    assert told in result.output


def test_results_of_another_supervisor_are_seen_before_an_engine_is_looked_for(desk: Desk) -> None:
    tasks = desk.write("one")
    boss, hand = Supervisor(cell("FINAL(1)")), Worker()
    evaluate(tasks, boss, hand)
    result = said("--tasks", str(tasks), "--supervisor", "recipe:find")
    assert getattr(result.exception, "code", None) == 2, result.output
    assert "answers of the supervisor Supervisor, not recipe:find" in result.output


def test_check_starts_nothing(desk: Desk) -> None:
    result = said("--tasks", str(desk.write("one", "two")), "--check")
    assert result.return_value == 0, result.output
    assert "2 tasks can be run" in result.output
    assert not (desk.folder / "tasks.results.jsonl").exists()
