"""A supervisor of one's own: what recipes write becomes rows, which a small model learns from."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill import evaluate, export, score
from distill.supervisor.programs.ledger import KINDS, program
from distill.supervisor.recipe import RecipeHandler
from distill.traces import read
from distill.training.families.writing import Sizes, generate
from tests.distill.scripted import SMALL, Supervisor, Worker

RUN_S = 900


class Answered(Exception):
    """What a program gave to FINAL."""


def tasks_in(folder: Path, train: int, test: int, side: str = "train") -> list[dict[str, Any]]:
    """Tasks of the family *ledger*, with a third of the usual entries."""
    if not folder.exists():
        generate("ledger", folder, Sizes(train=train, test=test, entries=5))
    return [json.loads(line) for line in (folder / f"{side}.jsonl").read_text().splitlines()]


def read_goods(prompt: str) -> str:
    """A worker that finds in the last line of a prompt what was bought."""
    return prompt.rpartition(" bought ")[2].partition(" for ")[0]


def final(answer: str) -> None:
    raise Answered(answer)


def test_the_recipe_is_right_about_the_whole_family(tmp_path: Path) -> None:
    """The code is run as it stands, without a jail: there are many."""
    asked = [
        *tasks_in(tmp_path / "tasks", 60, 60, "train"),
        *tasks_in(tmp_path / "tasks", 60, 60, "test"),
    ]
    kinds: set[str] = set()
    for task in asked:
        kinds.update(kind for kind, each in KINDS.items() if each.asked(task["query"]))
        names = {"FINAL": final, "worker": lambda prompt, **_: read_goods(prompt)}
        with pytest.raises(Answered) as said:
            exec(program(task["query"]), {"context": task["context"], **names})
        assert str(said.value) == task["label"], task["query"]
    assert kinds == set(KINDS)


def test_programs_become_rows_that_ask_what_was_asked(tmp_path: Path) -> None:
    """Of right answers only; what the code asked for is told by ``distill score`` as well."""
    tasks = tasks_in(tmp_path / "tasks", 4, 1)
    wrong = {**tasks[0], "id": "wrong", "label": "another"}
    done = evaluate(
        [*tasks, wrong], RecipeHandler("ledger"), Worker(read_goods), dialect="brief",
        scorer="exact", limits=SMALL, results=tmp_path / "recipe.jsonl",
    )  # fmt: skip
    export(done.log_dir, tmp_path / "data", format="supervisor-turns", select="correct")
    lines = (tmp_path / "data" / "train.jsonl").read_text().splitlines()
    rows = {row["task"]: row for row in map(json.loads, lines)}
    assert set(rows) == {task["id"] for task in tasks}
    for task in tasks:
        system, question = rows[task["id"]]["prompt"]
        assert len(system["content"]) < 400
        assert question["content"].startswith(f"Question: {task['query']}\n\n")
        (reply,) = rows[task["id"]]["completion"]
        assert reply["content"] == f"```repl\n{program(task['query'])}\n```"
    raises = evaluate(
        tasks[:2], Supervisor("```repl\n1 / 0\n```", "```repl\nFINAL('x')\n```"),
        Worker(), max_iterations=1, concurrency=1, scorer="exact", limits=SMALL,
        results=tmp_path / "boss.jsonl",
    )  # fmt: skip
    told = score([done.log_dir, raises.log_dir], "exact").comparisons["exact"]
    recipe, scripted = told.standings
    assert (recipe.supervisor, recipe.code_ran, recipe.accuracy) == ("recipe:ledger", 1.0, 4 / 5)
    assert (scripted.code_ran, scripted.accuracy) == (1 / 2, 0.0)


def distill(*words: str) -> str:
    """A command; what it says on standard output."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "distill", *words],
        capture_output=True, text=True, timeout=RUN_S, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(3 * RUN_S)
def test_a_small_model_that_was_shown_programs_writes_one_that_runs(tmp_path: Path) -> None:
    """The real model and the real engine; few steps, so it is asked what it was shown.

    How well it does on what it was not shown is in docs/training.md.
    """
    shown = tasks_in(tmp_path / "tasks", 24, 1)
    done = evaluate(
        shown, RecipeHandler("ledger"), Worker(read_goods), dialect="brief",
        scorer="exact", limits=SMALL, results=tmp_path / "recipe.jsonl",
    )  # fmt: skip
    steps = ("--max-steps", "36", "--batch-rows", "2", "--learning-rate", "0.0015")
    out = ("--of", "supervisor", "--select", "correct", "-o", str(tmp_path / "boss"))
    distill("train", "sft", str(done.log_dir), *steps, *out)
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(task) + "\n" for task in shown[:6]))
    adapter = f"boss={tmp_path / 'boss' / 'adapter'}"
    distill(
        "up", "--tasks", str(few), "--adapter", adapter, "--supervisor", "local:boss",
        "--dialect", "brief", "--max-iterations", "1", "--window-tokens", "1024",
    )  # fmt: skip
    logs = tmp_path / "few.results.logs"
    for run in read(logs).runs.values():
        assert run.start is not None
        assert (run.start.supervisor, "boss" in run.start.worker) == ("local:boss", False)
    (standing,) = score(logs).comparisons["exact"].standings
    assert standing.code_ran is not None
    assert standing.code_ran >= 0.5
