"""A whole loop that trains: a tiny model answers, its true rows teach it, in a true process."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from distill.scorers import normalised
from distill.tasks import Task
from distill.traces import read
from distill.training.iterations import TaskSets
from distill.training.trainer import TrainerProcess
from distill.training.workers import Workers
from tests.distill.scripted import SMALL
from tests.training.loops import Boss, go_round, lineage, plan
from tests.training.sampled import TEXTS
from tests.training.tiny import TinyWorker

ASKED = "FINAL(worker(context, chat=False, temperature=0, max_tokens=1))"
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
