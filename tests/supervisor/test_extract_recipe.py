"""The recipe *extract* and its variants, over a worker that reads as told: tasks as generated."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distill import evaluate, export
from distill.errors import WorkerBatchError, WorkerError
from distill.repl import REPL, UNSET
from distill.supervisor.recipe import RecipeHandler, recipe_names
from distill.traces import read
from distill.training.families import extract, inventions
from distill.training.families.writing import Sizes, generate
from tests.distill.scripted import SMALL, Worker

VARIANTS = ["extract", "extract-schema", "extract-shots", "extract-shots-schema"]
Prompt = list[dict[str, str]]


def code_of(recipe: str) -> str:
    reply = RecipeHandler(recipe).chat([{"role": "user", "content": "Question: What?"}]).text
    return reply.removeprefix("```repl\n").removesuffix("\n```")


def constants_of(recipe: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(code_of(recipe).partition("\nparagraphs = ")[0], namespace)
    return namespace


def tasks_of(folder: Path, entries: int) -> list[dict[str, Any]]:
    made = generate("extract", folder / "made", Sizes(train=1, test=3, entries=entries))
    return [json.loads(line) for line in (made.out / "test.jsonl").read_text().splitlines()]


class Reader:
    """A worker that gives the record of what it is shown; ``lost`` calls fail."""

    def __init__(self, lost: Sequence[int] = ()) -> None:
        self.lost = lost
        self.prompts: list[Prompt] = []
        self.options: dict[str, Any] = {}

    def __call__(self, prompts: list[Prompt], **options: Any) -> list[str]:
        self.prompts, self.options = prompts, options
        lines: list[str | None] = [self.read(prompt[-1]["content"]) for prompt in prompts]
        if not self.lost:
            return [line or "" for line in lines]
        for at in self.lost:
            lines[at] = None
        raise WorkerBatchError(lines, {at: WorkerError("lost") for at in self.lost}, len(lines))

    def read(self, shown: str) -> str:
        (told,) = [each for each in re.split(r"(?<=\.)\s", shown) if re.search(r"\d marks", each)]
        ((buyer, town),) = re.findall(r"([A-Z]\w+) of ([A-Z]\w+)", told)
        (goods,) = re.findall(r"(?:for|bought) ([a-z]+)", told)
        (marks,) = re.findall(r"(\d+) marks", told)
        return f"{extract.Record(buyer, town, goods, int(marks)).line}\n"


def answer(recipe: str, context: Any, query: str, worker: Any) -> Any:
    with REPL(context, query, str, worker) as repl:
        return repl.execute(code_of(recipe)).answer


def test_the_variants_are_one_file() -> None:
    assert [name for name in recipe_names() if name.startswith("extract")] == VARIANTS
    assert len({code_of(name) for name in VARIANTS}) == 4
    lines = [code_of(name).splitlines() for name in VARIANTS]
    changed = [numbered for numbered in zip(*lines, strict=True) if len(set(numbered)) > 1]
    assert len(changed) == 2
    for name, on in zip(VARIANTS, ("00", "01", "10", "11"), strict=True):
        constants = constants_of(name)
        assert f"{constants['SHOTS']:d}{constants['SCHEMA']:d}" == on


@pytest.mark.parametrize("recipe", VARIANTS)
def test_what_it_asks(recipe: str, tmp_path: Path) -> None:
    (task, *_), worker = tasks_of(tmp_path, 1), Reader()
    assert answer(recipe, task["context"], task["query"], worker) == task["label"]
    (prompt,) = worker.prompts
    shots = 3 if "shots" in recipe else 0
    assert [each["role"] for each in prompt] == [*["user", "assistant"] * shots, "user"]
    assert ("regex" in worker.options) == ("schema" in recipe)
    for shown, said in zip(prompt[:-1:2], prompt[1::2], strict=True):
        assert worker.read(shown["content"]).strip() == said["content"]  # they show what is right
    if "regex" in worker.options:
        lines = [
            task["label"],
            *(each["content"] for each in prompt if each["role"] == "assistant"),
        ]
        assert all(re.fullmatch(worker.options["regex"], line) for line in lines)


def test_of_several_records_it_finds_the_one_that_is_asked_for(tmp_path: Path) -> None:
    for task in tasks_of(tmp_path, 5):
        worker = Reader()
        assert answer("extract-shots", task["context"], task["query"], worker) == task["label"]
        assert len(worker.prompts) == 5


@pytest.mark.parametrize("kind", [list, dict])
def test_a_text_in_parts(kind: type, tmp_path: Path) -> None:
    (task, *_) = tasks_of(tmp_path, 4)
    parts = task["context"].split("\n\n")
    context = parts if kind is list else dict(zip("abcd", parts, strict=True))
    assert answer("extract", context, task["query"], Reader()) == task["label"]


def test_calls_that_fail(tmp_path: Path) -> None:
    (task, *_) = tasks_of(tmp_path, 4)
    asked = next(
        at
        for at, part in enumerate(task["context"].split("\n\n"))
        if task["query"].split()[4] in part
    )
    others = [at for at in range(4) if at != asked]
    assert answer("extract", task["context"], task["query"], Reader(others)) == task["label"]
    assert answer("extract", task["context"], task["query"], Reader([asked])) is None
    assert answer("extract", task["context"], task["query"], Reader(range(4))) is UNSET


def test_it_asks_what_the_tasks_of_one_record_ask() -> None:
    assert constants_of("extract")["ASK"] == extract.THE_RECORD


def test_what_shots_were_answered_is_taught_to_the_prompt_without(tmp_path: Path) -> None:
    """The way of the loop: tasks, runs, scores, rows."""
    tasks, worker = tasks_of(tmp_path, 1), Worker(Reader().read)
    done = evaluate(
        tasks, RecipeHandler("extract-shots"), worker, scorer="exact", concurrency=1,
        results=tmp_path / "tasks.jsonl", limits=SMALL,
    )  # fmt: skip
    assert done.summary.accuracy == 1.0
    assert {run.start.supervisor for run in read(done.log_dir).runs.values() if run.start} == {
        "recipe:extract-shots"
    }
    out = tmp_path / "data"
    export(done.log_dir, out, format="worker-sft", select="correct", without_shots=True)
    rows = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    assert len(rows) == len(tasks)
    for row, task in zip(rows, tasks, strict=True):
        asking = Reader()
        answer("extract", task["context"], task["query"], asking)
        assert [row["prompt"]] == asking.prompts
        assert row["completion"][0]["content"].strip() == task["label"]


def test_no_generated_document_has_a_name_or_goods_of_the_demonstrations() -> None:
    shown = set(re.findall(r"\w+", " ".join(constants_of("extract")["EXAMPLES"])))
    for side in inventions.SIDES:
        made = inventions.Inventions(side, "")
        assert not shown & {*made.people, *made.towns, *made.goods}
