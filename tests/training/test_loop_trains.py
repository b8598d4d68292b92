"""A whole loop that trains: a tiny model answers, its true rows teach it, in a true process.

Run as a program it is such a loop of two iterations, which kills itself, and itself alone, when the
training of the iteration that it is told has saved a checkpoint.
"""

import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from distill.scorers import normalised
from distill.tasks import Task
from distill.traces import read
from distill.training.task_sets import TaskSets
from distill.training.trainer import TrainerProcess
from distill.training.workers import Workers
from tests.distill.scripted import SMALL
from tests.supervisor.processes import wait_until
from tests.training.loops import ROOT, Boss, Silent, go_round, lineage, plan
from tests.training.sampled import TEXTS
from tests.training.tiny import TinyWorker, tiny_adapter

ASKED = "FINAL(worker(context, chat=False, temperature=0, max_tokens=1))"
SAMPLED = "FINAL(worker(context, chat=False, temperature=2.0, max_tokens=1))"
OPTIONS = {
    "--exact": True,
    "--lora-rank": 4,
    "--max-steps": 40,
    "--learning-rate": 0.03,
    "--device": "cpu",
}


class TinyWorkers(Workers):
    """A tiny model, with an adapter on it or without."""

    def __init__(self, model: Path) -> None:
        self.worker = TinyWorker(model)

    def use(self, adapter: Path | None, sha256: str = "") -> tuple[Any, dict[str, Any]]:
        if adapter is None:
            self.worker.drop_adapter()
        else:
            self.worker.load_adapter(adapter, "trained")
        return self.worker, {"limits": SMALL}

    def close(self) -> None:
        """There is nothing to end."""


def word_by_word(worker: TinyWorker) -> TaskSets:
    """Tasks with one answer: the model's own at those to learn from, another at those held out."""
    text = TEXTS["giant"]
    documents = [text[start : start + 40] for start in range(160)]
    answers = worker.complete_batch(documents, temperature=0, max_tokens=1)
    by_answer = defaultdict(list)
    for document, answer in zip(documents, answers, strict=True):
        if normalised(answer.text):
            by_answer[answer.text].append(document)
    label = max(by_answer, key=lambda each: len(by_answer[each]))
    others = [each for answer in by_answer if answer != label for each in by_answer[answer]]
    made = [
        [
            Task(id=f"{kind}-{number}", query="What?", context=context, label=label)
            for number, context in enumerate(contexts)
        ]
        for kind, contexts in (("train", by_answer[label][:6]), ("test", others[:5]))
    ]
    return TaskSets(*made)


class Fatal(Silent):
    """Ends its process, and no other, when there is a checkpoint in the training at ``out``."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self._out = out

    def tasks(self, text: str) -> None:
        if any((self._out / "checkpoints").glob("checkpoint-*")):
            os.kill(os.getpid(), signal.SIGKILL)


def two_iterations(out: Path, model: Path, killed_in: str) -> None:
    workers = TinyWorkers(model)
    options = {**OPTIONS, "--save-every-steps": 2}
    go_round(
        out,
        plan(iterations=2, collect_with="boss", margin=1.0, training=options),
        TrainerProcess("sft", str(model), options),
        workers,
        sets=word_by_word(workers.worker),
        base=model,
        supervisors=lambda name: Boss(name, ASKED),
        display=Fatal(out / killed_in / "train"),
    )


def test_rows_of_a_tiny_model_teach_it_what_it_is_then_kept_for(tiny: Path, tmp_path: Path) -> None:
    workers = TinyWorkers(tiny)
    sets = word_by_word(workers.worker)
    out = tmp_path / "out"
    came = go_round(
        out,
        plan(iterations=1, collect_with="boss", training=OPTIONS),
        TrainerProcess("sft", str(tiny), OPTIONS),
        workers,
        sets=sets,
        base=tiny,
        supervisors=lambda name: Boss(name, ASKED),
    )
    base, first = lineage(out)
    assert base.accuracy == 0.0
    assert first.accuracy is not None
    assert first.accuracy > 0.0
    assert first.kept
    assert first.steps == 40
    assert first.settings["learning_rate"] == 0.03
    assert first.adapter is not None
    for file in (out / first.adapter).iterdir():
        data = file.read_bytes()
        assert str(tiny.parent).encode() not in data, f"{file.name} says where it was made"
        assert str(tmp_path).encode() not in data, f"{file.name} says where it was made"
    (told,) = (each for each in came.versions if each.version == 1)
    calls = [
        call
        for run in read(out / "iteration-1" / "held-out.logs").runs.values()
        for call in run.calls
    ]
    assert {call.model.adapter_hash for call in calls} == {told.adapter_sha256}
    collected = read(out / "iteration-1" / "collect.logs").runs.values()
    assert {call.model.adapter_hash for run in collected for call in run.calls} == {""}
    assert (out / "iteration-1" / "train.log").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rl", "opd"])
def test_other_ways_to_train_go_round_too(tiny: Path, tmp_path: Path, method: str) -> None:
    """On samples of the version in training: the second time on those of the first one."""
    workers = TinyWorkers(tiny)
    options: dict[str, Any] = {"--lora-rank": 4, "--max-steps": 2, "--device": "cpu"}
    if method == "opd":
        options["--teacher-adapter"] = str(tiny_adapter(tmp_path / "teacher", tiny))
    sets = word_by_word(workers.worker)
    asked = [msgspec.structs.replace(each, attempts=16) for each in sets.training[:3]]
    came = go_round(
        tmp_path / "out",
        plan(method=method, iterations=2, collect_with="sampler", margin=1.0, training=options),
        TrainerProcess(method, str(tiny), options),
        workers,
        sets=TaskSets(asked, sets.held_out[:2]),
        base=tiny,
        supervisors=lambda name: Boss(name, SAMPLED if name == "sampler" else ASKED),
    )
    assert [each.steps for each in came.versions] == [0, 2, 2]
    assert [each.method for each in came.versions] == [None, method, method]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_while_it_trains_it_leaves_no_training_and_goes_on_from_its_checkpoint(
    tiny: Path, tmp_path: Path
) -> None:
    def went(out: Path, killed_in: str) -> int:
        words = ("tests.training.test_loop_trains", str(out), str(tiny), killed_in)
        return subprocess.run(
            [sys.executable, "-m", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, timeout=300,
        ).returncode  # fmt: skip

    def killed(out: Path, killed_in: str) -> Path:
        """Where it goes on: the folder is moved, too."""
        assert went(out, killed_in) == -signal.SIGKILL
        wait_until(lambda: not _trainings(out), 10, "a training outlives its loop")
        assert list((out / killed_in / "train" / "checkpoints").glob("checkpoint-*"))
        return out.rename(tmp_path / f"killed-in-{killed_in}")

    out = tmp_path / "out"
    for killed_in in ("iteration-1", "iteration-2"):
        out = killed(out, killed_in)
    assert went(out, "nowhere") == 0
    told = [(each.version, each.parent, each.kept, each.steps) for each in lineage(out)]
    assert told == [(0, None, True, 0), (1, 0, True, 40), (2, 1, True, 40)]
    assert went(tmp_path / "undisturbed", "nowhere") == 0
    assert lineage(out) == lineage(tmp_path / "undisturbed"), "alike to the bit"


def _trainings(out: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if f"{out}/" in " ".join(process.info["cmdline"] or ())
    ]


if __name__ == "__main__":
    two_iterations(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
