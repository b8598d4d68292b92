"""Rounds of the loop: what is kept, what is dropped, what is refused, and what a kill leaves."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from distill.errors import DistillError, InputError, ModelError, NoRowsError
from distill.tasks import Task
from distill.training.collapse import CollapseError
from distill.training.data import DataSet
from distill.training.decision import decide
from distill.training.iterations import NO_VERSION, Came
from distill.training.lineage import OF_AN_ADAPTER
from distill.training.loop_page import page
from distill.training.loop_report import report_of
from distill.training.plan import begin, of_model
from distill.training.settings import TrainSettings
from distill.training.task_sets import TaskSets
from distill.training.trainer import TrainerProcess
from distill.worker_server.adapter_files import CONFIG, WEIGHTS, files_hash
from distill.worker_server.model import ModelFolder
from tests.adapter_folder import write_adapter
from tests.training.loops import (
    ALWAYS_FAILS,
    ROOT,
    SKILLS,
    STAND_IN,
    Boss,
    Failing,
    Silent,
    SkilledWorkers,
    Table,
    go_round,
    lineage,
    plan,
    tasks,
)


def test_a_better_version_is_kept_and_a_worse_one_dropped(tmp_path: Path) -> None:
    trainer, workers = Table(SKILLS), SkilledWorkers()
    asked = plan(labels="oracle", baselines=("other",), whole_runs="whole.jsonl", iterations=3)
    sets = TaskSets(tasks("train", 3), tasks("test", 4), tasks("whole", 2))
    came = go_round(tmp_path, asked, trainer, workers, sets=sets)

    first, second, third = lineage(tmp_path)[1:]
    told = [(each.version, each.parent, each.kept, each.accuracy) for each in came.versions]
    assert told == [
        (0, None, True, 0.25),
        (1, 0, True, 0.75),
        (2, 1, False, 0.5),
        (3, 1, True, 1.0),
    ]
    assert came.last.version == third.version == 3
    # The third is trained from the first, whose rows were collected with it, too.
    assert trainer.trained == [
        ("iteration-1", "base"),
        ("iteration-2", "iteration-1"),
        ("iteration-3", "iteration-1"),
        ("oracle", "base"),
    ]
    used = ["base", "base", *("base", "iteration-1"), *("iteration-1", "iteration-2")]
    used += [*("iteration-1", "iteration-3"), "oracle", "base", "iteration-3"]
    assert workers.used == used
    assert [first.rows, second.rows, third.rows] == [1, 3, 3]
    assert second.decision is not None
    assert second.decision.difference == -0.25
    assert (second.decision.better, second.decision.worse, second.decision.p) == (0, 1, 1.0)
    assert "worse than its parent by more than the margin of 0: -0.250" in second.why
    assert came.oracle is not None
    assert came.oracle.accuracy == 1.0
    assert {name: each.accuracy for name, each in came.whole_runs.items()} == {
        "base": 0.5,
        "trained": 1.0,
    }
    trainings = report_of(tmp_path, asked, came, "distill train sft").trainings
    assert list(trainings) == ["version 1", "version 2", "version 3", "oracle"]
    assert {training.parity for training in trainings.values()} == {"2 calls: ids are equal"}
    assert "The oracle was taught 3 rows in 2 steps" in page(report_of(tmp_path, asked, came, "x"))
    beside = json.loads((tmp_path / str(first.adapter) / OF_AN_ADAPTER).read_bytes())
    assert (beside["version"], beside["parent"], beside["kept"]) == (1, 0, True)
    assert len(first.adapter_sha256) == 64


def test_a_version_that_collapses_or_always_fails_is_dropped_and_the_loop_goes_on(
    tmp_path: Path,
) -> None:
    workers = SkilledWorkers()
    asked = plan(iterations=3, whole_runs="whole.jsonl")
    sets = TaskSets(tasks("train", 2), tasks("test", 3), tasks("whole", 1))
    collapsed = CollapseError("the model collapsed by step 1")
    trainer = Table({"iteration-1": collapsed, "iteration-2": ALWAYS_FAILS, "iteration-3": 2.0})

    def went() -> Came:
        return go_round(
            tmp_path, asked, trainer, workers, sets=sets,
            supervisors=lambda name: Failing(name, workers),
        )  # fmt: skip

    came = went()
    assert [(each.kept, each.accuracy) for each in came.versions] == [
        (True, 1 / 3), (False, None), (False, 0.0), (True, 2 / 3)
    ]  # fmt: skip
    whys = [each.why for each in came.versions[1:3]]
    assert whys == ["the model collapsed by step 1", "all of its 3 runs failed"]
    assert [each.parent for each in came.versions] == [None, 0, 0, 0]
    report = report_of(tmp_path, asked, came, "distill train rl")
    assert {row.name for row in report.rows if row.kind == "held-out"} == {
        "base", "version 2", "version 3"
    }  # fmt: skip
    assert "the model collapsed by step 1" in page(report)
    before, trained = lineage(tmp_path), list(trainer.trained)
    went()  # what is decided is decided
    assert (lineage(tmp_path), trainer.trained) == (before, trained)


def test_a_worker_as_it_is_of_which_all_runs_fail_is_an_error(tmp_path: Path) -> None:
    workers = SkilledWorkers()
    workers.base_skill = ALWAYS_FAILS
    with pytest.raises(ModelError, match="all 3 runs of boss failed"):
        go_round(
            tmp_path, plan(), Table(SKILLS), workers,
            sets=TaskSets(tasks("train", 2), tasks("test", 3)),
            supervisors=lambda name: Failing(name, workers),
        )  # fmt: skip


def test_what_ends_a_version_ends_an_iteration_and_not_the_loop(tmp_path: Path) -> None:
    """No answer is right, then none of the rows can be used; the third time both are."""
    trainer, workers = (
        Table({"iteration-2": NoRowsError("too long"), "iteration-3": 1.0}),
        Learning(),
    )
    came = go_round(
        tmp_path, plan(iterations=3), trainer, workers,
        sets=TaskSets(tasks("train", 2), tasks("test", 3)),
    )  # fmt: skip
    first, second, third = came.versions[1:]
    assert "there is nothing to train on" in first.why
    assert "no row is left" in first.why
    assert (first.kept, first.adapter, first.data_manifest_sha256) == (False, None, "")
    assert (second.kept, second.why) == (False, "too long")
    assert second.data_manifest_sha256
    assert (third.kept, third.parent, third.accuracy) == (True, 0, 1 / 3)


class Learning(SkilledWorkers):
    """Of no skill until the training tasks of the first iteration are done."""

    def use(self, adapter: Path | None, sha256: str = "") -> tuple[Any, dict[str, Any]]:
        self.base_skill = 1.0 if len(self.used) >= 2 else 0.0
        return super().use(adapter, sha256)


@pytest.mark.parametrize(("code", "kind"), [(4, CollapseError), (5, NoRowsError)])
def test_a_training_that_ends_a_version_says_so_in_its_exit_code(
    tmp_path: Path, code: int, kind: type[DistillError]
) -> None:
    class Ending(TrainerProcess):
        def command(self, *_: object) -> list[str]:
            said = "'step 3\\ndistill: it collapsed'"
            return [sys.executable, "-c", f"import sys; print({said}); sys.exit({code})"]

    with pytest.raises(kind, match=r"^it collapsed$"):
        Ending("rl", "m", {})(tmp_path, tmp_path / "train", None, lambda _: None)


def test_a_loop_goes_on_from_an_adapter(tmp_path: Path) -> None:
    mine, out = tmp_path / "sft" / "mine", tmp_path / "out"
    write_adapter(mine, 2.0)
    trainer, workers = Table({"iteration-1": 1.0, "iteration-2": 3.0}), SkilledWorkers()
    sets = TaskSets(tasks("train", 4), tasks("test", 5), tasks("whole", 6))
    asked = plan(adapter=str(mine), whole_runs="whole.jsonl", baselines=("other",))

    came = go_round(out, asked, trainer, workers, sets=sets)
    assert [(each.kept, each.accuracy) for each in came.versions] == [
        (True, 2 / 5), (False, 1 / 5), (True, 3 / 5)
    ]  # fmt: skip
    assert came.baselines["other"].accuracy == 2 / 5
    assert came.whole_runs["base"].accuracy == 2 / 6
    assert {parent for _, parent in trainer.trained} == {tmp_path.name}
    assert came.versions[0].adapter_sha256 == files_hash(mine)
    assert {each.name for each in mine.iterdir()} == {CONFIG, WEIGHTS}

    assert go_round(out, asked, trainer, workers, sets=sets).versions == came.versions
    write_adapter(mine, 9.0)
    with pytest.raises(InputError, match="another loop's: adapter_sha256 was"):
        go_round(out, asked, trainer, workers, sets=sets)


def test_an_oracle_that_collapses_is_left_out_for_good(tmp_path: Path) -> None:
    trainer = Table(SKILLS | {"oracle": CollapseError("no number")})
    sets = TaskSets(tasks("train", 2), tasks("test", 2), tasks("whole", 2))
    for iterations in (1, 1, 2):
        asked = plan(labels="oracle", iterations=iterations, whole_runs="whole.jsonl")
        came = go_round(tmp_path, asked, trainer, SkilledWorkers(), sets=sets)
        assert (came.oracle, came.no_oracle) == (None, "no number")
        assert came.whole_runs["base"].accuracy == 1 / 2
    assert [name for name, _ in trainer.trained] == ["iteration-1", "oracle", "iteration-2"]


def test_what_was_measured_stays_on_the_page_while_a_loop_grows(tmp_path: Path) -> None:
    sets = TaskSets(tasks("train", 2), tasks("test", 5), tasks("whole", 6))
    pages: list[tuple[bool, list[str]]] = []

    def look(came: Came) -> None:
        pages.append((came.oracle is not None, list(came.whole_runs)))

    trainer = Table(SKILLS | {"iteration-2": 4.0})
    for iterations in (1, 2):
        asked = plan(labels="oracle", iterations=iterations, whole_runs="whole.jsonl")
        go_round(tmp_path, asked, trainer, SkilledWorkers(), sets=sets, look=look)
    # The second version has done no whole runs yet, and the first is no longer the last.
    assert pages == [(False, []), (True, ["base", "trained"]), (True, ["base"])]


def test_a_loop_of_a_time_with_fewer_options_goes_on(tmp_path: Path) -> None:
    begin(tmp_path, plan())
    known = json.loads((tmp_path / "loop.json").read_bytes())
    del known["adapter"], known["adapter_sha256"]
    (tmp_path / "loop.json").write_text(json.dumps(known))
    begin(tmp_path, plan())


def test_iterations_are_added_to_a_loop_that_has_ended(tmp_path: Path) -> None:
    sets = TaskSets(tasks("train", 2), tasks("test", 5), tasks("whole", 6))
    trainer, workers = Table(SKILLS), SkilledWorkers()
    asked = plan(iterations=1, whole_runs="whole.jsonl")
    go_round(tmp_path, asked, trainer, workers, sets=sets)
    before, begun_s = lineage(tmp_path), (tmp_path / "loop.json").stat().st_mtime
    more = plan(iterations=3, whole_runs="whole.jsonl")
    came = go_round(tmp_path, more, trainer, workers, sets=sets)
    assert lineage(tmp_path)[:2] == before
    assert [name for name, _ in trainer.trained] == [f"iteration-{number}" for number in (1, 2, 3)]
    assert (tmp_path / "loop.json").stat().st_mtime == begun_s
    # The whole runs are those of the last version, not of the one that was the last.
    accuracies = {name: each.accuracy for name, each in came.whole_runs.items()}
    assert accuracies == {"base": 1 / 6, "trained": 4 / 6}
    with pytest.raises(InputError, match=r"iterations was 3, and is 2.*may grow"):
        begin(
            tmp_path,
            of_model(plan(iterations=2, whole_runs="whole.jsonl"), ModelFolder("m", STAND_IN)),
        )


def test_oracle_rows_are_labels_and_in_no_version(tmp_path: Path) -> None:
    trainer = Table(SKILLS)
    go_round(
        tmp_path,
        plan(labels="oracle", iterations=1),
        trainer,
        SkilledWorkers(),
        sets=TaskSets(tasks("train", 3), tasks("test", 1)),
    )
    rows = (tmp_path / "oracle" / "data" / "train.jsonl").read_bytes().splitlines()
    found = [json.loads(row) for row in rows]
    assert [row["completion"][0]["content"] for row in found] == ["right"] * 3
    logged = (tmp_path / "iteration-1" / "data" / "train.jsonl").read_text()
    assert logged.count('"right"') == 1
    assert "number 2" not in logged
    assert all(each.version != -1 for each in lineage(tmp_path))


@pytest.mark.parametrize(
    "code",
    [
        "worker(context)\nFINAL(worker('once more: ' + context))",
        # Of the second run one call has a row: what the other asked had been answered before.
        "worker('of all 0')\nFINAL(worker(context))",
        "try:\n    worker('fails')\nexcept Exception:\n    FINAL(worker(context))",
    ],
    ids=["two rows", "one that is there already", "one that failed"],
)
def test_a_run_with_several_questions_has_no_labels_to_learn(tmp_path: Path, code: str) -> None:
    display, asked = Silent(), plan(labels="oracle", iterations=1, selection={"select": "all"})
    came = go_round(
        tmp_path,
        asked,
        Table(SKILLS),
        SkilledWorkers(),
        supervisors=lambda name: Boss(name, code),
        sets=TaskSets(tasks("train", 2), tasks("test", 1)),
        display=display,
    )
    assert came.oracle is None
    assert re.search("oracle · left out: .*exactly one question", display.lines[-1])
    assert "There is no oracle" in page(report_of(tmp_path, asked, came, "x"))


def test_all_that_was_asked_is_taught_once_whatever_was_answered(tmp_path: Path) -> None:
    """The same asked again is no other question, and no other row."""
    go_round(
        tmp_path,
        plan(labels="oracle", iterations=1),
        Table(SKILLS),
        SkilledWorkers(),
        supervisors=lambda name: Boss(name, "worker(context)\nFINAL(worker(context))"),
        sets=TaskSets(tasks("train", 3), tasks("test", 1)),
    )
    rows = (tmp_path / "oracle" / "data" / "train.jsonl").read_bytes().splitlines()
    found = [json.loads(row)["prompt"][0]["content"] for row in rows]
    assert sorted(found) == [f"train number {number}" for number in range(3)]
    version = json.loads((tmp_path / "oracle" / "decision.json").read_bytes())
    assert (version["kept"], version["why"]) == (False, NO_VERSION)


def test_a_share_of_the_tasks_at_a_time_goes_round(tmp_path: Path) -> None:
    asked = plan(tasks_per_iteration=2, iterations=2)
    skills = {"iteration-1": 2.0, "iteration-2": 2.0}
    came = go_round(
        tmp_path,
        asked,
        Table(skills),
        SkilledWorkers(),
        sets=TaskSets(tasks("train", 3), tasks("test", 2)),
    )
    collected = [sorted(came.collected[number].scores) for number in (1, 2)]
    assert collected == [["train-0", "train-1"], ["train-0", "train-2"]]
    assert came.versions[2].kept  # as good as its parent


def test_what_is_better_beyond_chance_is_not_called_not_worse() -> None:
    scores = {str(place): 1.0 for place in range(20)}
    decision = decide(scores, dict.fromkeys(scores, 0.0), 0.0)
    assert decision.why.startswith("+1.000 over its parent (+0.")


@pytest.mark.parametrize(
    ("new", "parent", "margin", "kept"),
    [
        ([1, 1, 0, 0], [1, 0, 0, 0], 0.0, True),
        ([1, 0, 0, 0], [1, 0, 0, 0], 0.0, True),
        ([0] * 20 + [1], [0] * 19 + [1, 1], 0.0, False),
        ([0] * 20 + [1], [0] * 19 + [1, 1], 0.05, True),
        ([0] * 20, [1] * 20, 1.0, False),  # beyond chance, whatever the margin
    ],
)
def test_the_rule(new: list[int], parent: list[int], margin: float, kept: bool) -> None:
    def scores(values: list[int]) -> dict[str, float]:
        return {str(place): float(value) for place, value in enumerate(values)}

    decision = decide(scores(new), scores(parent), margin)
    assert decision.kept is kept
    if kept:
        assert decision.why.startswith("not worse than its parent: ")
    assert decision.tasks == len(new)


@pytest.mark.parametrize(
    ("leak", "told"),
    [
        (
            Task(id="test-1", query="q", context="its own", label="x"),
            "these ids are in both.*test-1",
        ),
        (
            Task(id="new", query="q", context="test number 1", label="x"),
            "same text.*new and test-1",
        ),
        (
            Task(id="new", query="q", context=["its own", "test number 1"], label="x"),
            "same text.*new and test-1",
        ),
        (
            Task(id="new", query="q", context={"a": ["whole number 0"]}, label="x"),
            "same text.*new and whole-0",
        ),
    ],
)
def test_a_leak_is_refused_before_anything_starts(leak: Task, told: str) -> None:
    sets = TaskSets([*tasks("train", 2), leak], tasks("test", 3), tasks("whole", 1))
    with pytest.raises(InputError, match=told):
        sets.apart()


@pytest.mark.parametrize("blank", ["", " \n", [], {}])
def test_tasks_without_a_text_share_none(blank: Any) -> None:
    one, other = (Task(id=name, query=name, context=blank, label="x") for name in "ab")
    TaskSets([one], [other]).apart()
    with pytest.raises(InputError, match="these ids are in both"):
        TaskSets([one], [one]).apart()


@pytest.mark.parametrize(
    ("whole", "told"),
    [
        (tasks("test", 2), "the whole runs are not apart from the held-out tasks: these ids"),
        ([Task(id="new", query="q", context=["test number 1"], label="x")], "new and test-1"),
    ],
)
def test_whole_runs_that_choose_the_versions_are_refused(whole: list[Task], told: str) -> None:
    with pytest.raises(InputError, match=told):
        TaskSets(tasks("train", 2), tasks("test", 3), whole).apart()


def test_rows_of_what_is_held_out_are_refused_before_weights_of_them_are_tried(
    tmp_path: Path,
) -> None:
    """A data set that somebody has put in the place of the loop's."""
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    sets = TaskSets(tasks("test", 1), tasks("train", 1))
    go_round(elsewhere, plan(iterations=1), Table(SKILLS), SkilledWorkers(), sets=sets)

    def swap(data: Path) -> None:
        for file in data.iterdir():
            file.write_bytes((elsewhere / "iteration-1" / "data" / file.name).read_bytes())

    class Swapping(Table):
        def __call__(self, data: Path, *rest: Any) -> None:
            super().__call__(data, *rest)
            swap(data)
            raise ModelError("killed")

    asked = plan(iterations=1)
    sets = TaskSets(tasks("train", 1), tasks("test", 1))
    with pytest.raises(ModelError, match="killed"):
        go_round(out, asked, Swapping(SKILLS), SkilledWorkers(), sets=sets)
    with pytest.raises(InputError, match="row 1 is of the task 'test-0' and the document"):
        go_round(out, asked, Table(SKILLS), SkilledWorkers(), sets=sets)
    assert not (out / "iteration-1" / "held-out.jsonl").exists()


def test_another_command_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    begin(tmp_path, plan())
    begin(tmp_path, plan())
    with pytest.raises(InputError, match=r"margin was 0\.0, and is 0\.1.*another --out"):
        begin(tmp_path, plan(margin=0.1))
    with pytest.raises(InputError, match=r"limits was \[\], and is \('cell_s=9',\)"):
        begin(tmp_path, plan(limits=("cell_s=9",)))
    # The same file by another path; a file that was changed.
    begin(tmp_path, plan(tasks="../here/train.jsonl", held_out="/data/test.jsonl", worker="w"))
    with pytest.raises(InputError, match="tasks_sha256 was 'a', and is 'c'"):
        begin(tmp_path, plan(tasks_sha256="c"))
    (tmp_path / "loop.json").write_text("{")
    with pytest.raises(InputError, match=r"loop\.json can't be read .*: choose another --out"):
        begin(tmp_path, plan())
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="no loop's"):
        begin(other, plan())


def test_a_model_that_is_changed_in_place_is_noticed(tmp_path: Path) -> None:
    """Before anything where a loop goes on, before a training where it was at work meanwhile."""
    model = Path(shutil.copytree(STAND_IN, tmp_path / "model"))
    sets = TaskSets(tasks("train", 2), tasks("test", 3))

    def went(trainer: Table) -> Came:
        return go_round(
            tmp_path / "out", plan(), trainer, SkilledWorkers(), sets=sets, base=model
        )  # fmt: skip

    class Changing(Table):
        def __call__(self, *words: Any) -> None:
            super().__call__(*words)
            (model / "chat_template.jinja").write_text("another")

    trainer = Changing(SKILLS)
    with pytest.raises(InputError, match="not those that this loop was begun with"):
        went(trainer)
    assert [name for name, _ in trainer.trained] == ["iteration-1"]
    with pytest.raises(InputError, match=r"another loop's: template_hash was .*files as they were"):
        went(trainer)
    (model / "chat_template.jinja").unlink()
    assert len(went(Table(SKILLS)).versions) == 3


# -- killed

NEVER = 10_000


def killed(out: Path, at: int, after_s: float = 240.0) -> int:
    """The exit code of a loop that is killed at an event, or after a time."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.training.loops", str(out), str(at)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait(after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def finished(out: Path) -> dict[Path, bytes]:
    """The bytes of what is finished: what a marker stands for, and the markers."""
    found: dict[Path, bytes] = {}
    for marker in out.rglob("*.figures.json"):
        results = marker.with_name(marker.name.replace(".figures.json", ".jsonl"))
        found |= {path: path.read_bytes() for path in (marker, results)}
    for each in ("decision.json", "training.json", "manifest.json", "train.jsonl"):
        found |= {path: path.read_bytes() for path in out.rglob(each)}
    for folder in [path.parent for path in out.rglob("training.json")]:
        found |= {path: path.read_bytes() for path in folder.rglob("adapter_*")}
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The lineage of the loop that nobody kills."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert killed(out, NEVER) == 0
    return lineage(out)


def killed_and_again(out: Path, at: int) -> bool:
    """Kill a loop at an event, and go on to the end; whether it was killed at all."""
    return ended_again(out, killed(out, at))


def ended_again(out: Path, code: int) -> bool:
    """Go on after this end, and hold what comes of it against what was finished then."""
    if code == 0:
        return False
    assert code == -signal.SIGKILL
    before = finished(out)
    assert killed(out, NEVER) == 0
    assert {path: path.read_bytes() for path in before} == before
    return True


@pytest.mark.parametrize("at", [6, 10])
def test_killed_it_goes_on_to_the_same_lineage(
    tmp_path: Path, undisturbed: list[Any], at: int
) -> None:
    assert killed_and_again(tmp_path / "out", at)
    assert lineage(tmp_path / "out") == undisturbed


def test_a_training_and_its_logs_may_be_moved_together(tmp_path: Path) -> None:
    def told(loop: Path, parent: str = "iteration-1") -> dict[str, Any]:
        adapter = write_adapter(loop / parent / "train" / "adapter", float(parent[-1]))
        return TrainSettings(out=loop / "iteration-2" / "train", adapter=adapter).told()

    assert told(tmp_path / "here") == told(tmp_path / "there")
    assert told(tmp_path / "here") != told(tmp_path / "here", "iteration-0")
    out, moved = tmp_path / "out", tmp_path / "moved"
    sets = TaskSets(tasks("train", 2), tasks("test", 2))
    asked = plan(labels="oracle", iterations=1)
    go_round(out, asked, Table(SKILLS), SkilledWorkers(), sets=sets)
    out.rename(moved)
    for data in (moved / "iteration-1" / "data", moved / "oracle" / "logged" / "data"):
        assert DataSet.read(data).logs == [moved / "iteration-1" / "collect.logs"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_each_event_it_goes_on_to_the_same_lineage(
    tmp_path: Path, undisturbed: list[Any]
) -> None:
    at = 1
    while killed_and_again(out := tmp_path / str(at), at):
        assert lineage(out) == undisturbed, at
        at += 1
    assert at > 25


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_any_moment_again_and_again_it_ends_with_the_same_lineage(
    tmp_path: Path, undisturbed: list[Any]
) -> None:
    out, after_s, kills = tmp_path / "out", 1.0, 0
    while (code := killed(out, NEVER, after_s)) != 0:
        assert code == -signal.SIGKILL
        kills += 1
        after_s *= 1.17
    assert kills > 2
    assert lineage(out) == undisturbed


def test_lineage_is_one_of_plain_json(undisturbed: list[Any]) -> None:
    told = [(each.version, each.parent, each.kept) for each in undisturbed]
    assert told == [(0, None, True), (1, 0, True), (2, 1, False)]
    assert msgspec.json.decode(msgspec.json.encode(undisturbed))
