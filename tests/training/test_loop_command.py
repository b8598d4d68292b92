"""``distill train sft --tasks``: what is refused before anything starts."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any, cast

import click
import msgspec
import pytest

from distill.cli import cli
from distill.engine_arguments import EngineArguments
from distill.resident import SandboxSettings
from distill.training.gathering import UNASKED
from distill.training.loop_command import shares_gpu, to_do
from distill.training.loop_options import NOT_OF_A_LOOP, OF_BOTH, OF_ROWS
from distill.training.task_sets import TaskSets
from distill.worker_settings import WorkerSettings
from tests.distill.commands import Done, command_here
from tests.engine_stand_in.spec import MODEL
from tests.pretended_gpus import pretend_gpus
from tests.training.loops import plan, tasks

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason="needs the extra train"
)


def tasks_file(path: Path, *tasks: dict[str, Any]) -> str:
    lines = [{"query": "What?", "label": "x", **task} for task in tasks]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    """The words of a loop that could begin."""
    train = tasks_file(tmp_path / "train.jsonl", {"id": "a", "context": "one"})
    test = tasks_file(tmp_path / "test.jsonl", {"id": "b", "context": "two"})
    return ("--tasks", train, "--held-out", test, "--worker", str(MODEL), "-o", str(tmp_path / "o"))


def refused(folder: Path, *words: str, method: str = "sft") -> str:
    done: Done = command_here(folder, "train", method, *words)
    assert done.code == 2, done.err
    assert not (folder / "o").exists()
    return done.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--adapter", "."), "is no LoRA adapter"),
        (("--model", "m"), "leave out --model"),
        (("--full",), "leave out --full"),
        (("--of", "supervisor"), "leave out --of"),
        (("--scorer", "nobody"), "nobody"),
        (("--supervisor", "recipe:none"), "no recipe 'none'"),
        (("--baseline", "replay:x"), "tasks need another supervisor"),
        (("--base-url", "http://localhost:1"), "--base-url is for a supervisor"),
        (("--where", "call.nothing > 1"), "call.nothing"),
        (("--exact", "--without-shots"), "not for token-sft"),
        (("--cores", "0,0"), "--cores 0,0"),
        (("--whole-runs", "/nowhere.jsonl"), "/nowhere.jsonl can't be read"),
        (("--chat-template", "mine.jinja"), "No such option"),
        (("runs.logs",), "leave out RUN"),
        (("--device", "tpu"), "--device is cpu, cuda or cuda:N, not 'tpu'"),
        (("--exact", "--labels", "oracle"), "leave out --exact"),
    ],
)
def test_what_no_loop_can_be(
    files: tuple[str, ...], tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    assert told in refused(tmp_path, *files, *words)


def test_tasks_that_leak_have_no_label_or_are_not_there(
    files: tuple[str, ...], tmp_path: Path
) -> None:
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    tasks_file(train, {"id": "a", "context": "one"}, {"id": "c", "context": "two"})
    assert "these tasks have the same text: c and b" in refused(tmp_path, *files)
    tasks_file(train, {"id": "a", "context": "one", "label": None})
    assert "task 'a': it has no label" in refused(tmp_path, *files)
    tasks_file(train, {"id": "a", "context": "one", "options": {"adapter": "mine"}})
    assert "which adapter answers is the loop's" in refused(tmp_path, *files)
    test.unlink()
    assert "can't be read" in refused(tmp_path, *files)
    assert "--held-out FILE" in refused(tmp_path, "--tasks", str(train), "-o", str(tmp_path / "o"))


def test_rl_needs_tasks_that_are_asked_more_than_once(
    files: tuple[str, ...], tmp_path: Path
) -> None:
    several = {"id": "a", "context": "one", "attempts": 2}
    tasks_file(tmp_path / "train.jsonl", several, {"id": "c", "context": "three"})
    told = refused(tmp_path, *files, method="rl")
    assert "task 'c': rl learns from answers to the same question" in told
    tasks_file(tmp_path / "train.jsonl", several)
    assert "no recipe" in refused(tmp_path, *files, "--supervisor", "recipe:x", method="rl")


@pytest.mark.parametrize("method", ["sft", "rl", "opd"])
def test_an_option_that_chooses_rows_is_of_the_loops_rows_and_not_of_its_trainings(
    method: str,
) -> None:
    """A training of a loop is on rows that are chosen already, and refuses such an option."""
    command = cast(click.Group, cli.commands["train"]).commands[method]
    choosing = {option.name for option in command.params} & UNASKED.keys()
    assert choosing <= {*OF_ROWS, *NOT_OF_A_LOOP, *OF_BOTH}
    assert {"where", "select", "without_shots"} <= choosing


@pytest.mark.parametrize("method", ["sft", "rl", "opd"])
def test_the_options_of_a_loop_have_a_heading_of_their_own(method: str, tmp_path: Path) -> None:
    done = command_here(tmp_path, "train", method, "--help")
    of_all, of_a_loop = done.out.split("With --tasks (a loop):")
    for flag in ("--held-out", "--worker", "--max-lora-rank", "--concurrency"):
        assert f"  {flag} " in of_a_loop
        assert f"  {flag} " not in of_all.partition("Options:")[2]
    assert "--epochs" in of_all
    assert "--worker-url" not in done.out


def test_options_of_a_loop_are_for_a_loop(tmp_path: Path) -> None:
    told = refused(tmp_path, "runs.logs", "--iterations", "2", "-o", str(tmp_path / "o"))
    assert "--iterations is for --tasks FILE, and not for RUN" in told
    told = refused(tmp_path, "--held-out", "test.jsonl", "-o", str(tmp_path / "o"))
    assert "--held-out needs --tasks FILE" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "name who teaches"),
        (("--teacher-adapter", "nowhere"), "there is no folder nowhere"),
        (("--teacher", "/no/model"), "/no/model"),
    ],
)
def test_no_loop_begins_without_a_teacher(
    files: tuple[str, ...], tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    assert told in refused(tmp_path, *files, *words, method="opd")


def test_how_much_there_is_to_do_is_told_at_first() -> None:
    asked = plan(iterations=2, baselines=("one", "other"), labels="oracle", tasks_per_iteration=3)
    sets = TaskSets(tasks("train", 4), tasks("test", 5), tasks("whole", 1))
    assert to_do(asked, sets) == (
        "To do       5 held-out tasks × 6 (the worker as it is, 2 baselines, 2 versions, "
        "the oracle) · 3 training tasks × 2 · 3 trainings · 1 task of whole runs × 2"
    )
    often = [msgspec.structs.replace(each, attempts=8) for each in tasks("train", 2)]
    assert to_do(plan(iterations=1), TaskSets(often, tasks("test", 1))) == (
        "To do       1 held-out task × 2 (the worker as it is, 1 version)"
        " · 2 training tasks (16 runs) × 1 · 1 training"
    )


@pytest.mark.parametrize(
    ("gpus", "cores", "device", "shares"),
    [
        ((), (), None, True),  # a worker server that is told nothing takes the first
        ((), (), "cuda:1", False),
        ((), (), "cpu", False),
        ((), ("0",), None, False),
        (("0+1",), (), "cuda:1", True),
        (("GPU-01",), (), None, False),
        (("GPU-01",), (), "cuda:1", True),
    ],
)
def test_a_training_on_a_gpu_of_the_engine_needs_room(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpus: tuple[str, ...], cores: tuple[str, ...], device: str | None, shares: bool,
) -> None:  # fmt: skip
    monkeypatch.setenv("PATH", pretend_gpus(tmp_path / "bin", 2), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    workers = WorkerSettings(str(MODEL), gpus=gpus, cores=cores)
    engine = EngineArguments(workers, None, SandboxSettings(), None)
    assert shares_gpu(engine, device) is shares


def test_without_gpus_nobody_shares_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    workers = WorkerSettings(str(MODEL))
    assert not shares_gpu(EngineArguments(workers, None, SandboxSettings(), None), None)
