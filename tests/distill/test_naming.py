"""Runs are named in one way, and results found in one way, whoever reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from distill import export, provenance_summary
from distill.budget import percent
from distill.errors import InputError
from distill.exports.grading import graded_runs
from distill.exports.reading import read_runs, sources
from distill.exports.selection import UNSCORED
from distill.recorded_results import recorded_in
from distill.supervisors import recorded_run
from distill.traces import Logs, read, rows, validate
from distill.traces.results import TaskResult
from distill.view.answers import Answers
from tests.distill.written_logs import T, Told, write


def exported(*named: str | Path, **options: Any) -> Any:
    return export(named, format="prompts-text", dry_run=True, **options)


READERS: dict[str, Callable[[str], Any]] = {
    "export": exported,
    "table": lambda named: list(rows(named, "runs")),
    "replay": recorded_run,
}


@pytest.mark.parametrize("reader", READERS)
def test_who_names_a_run_that_is_not_there_is_told_which_are(reader: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "log", *(Told(f"r{number}") for number in range(10)))
    with pytest.raises(InputError, match=r"no run none; there are r2, .*, r9 and 2 older ones"):
        READERS[reader](f"{folder}#none")


def test_a_folder_by_two_names_is_one(tmp_path: Path) -> None:
    folder, other = write(tmp_path / "log", Told("r1"), Told("r2")), tmp_path / "link"
    other.symlink_to(folder)
    assert [run.id for run in Logs(folder, f"{other}#r1").runs()] == ["r1", "r2"]
    assert exported(folder, other).runs_read == 2


def test_results_say_the_same_beside_the_logs_and_by_name(tmp_path: Path) -> None:
    """The first run was done again: it has no score, wherever that is told."""

    def result(run: str) -> bytes:
        return msgspec.json.encode(
            TaskResult(
                task="a", attempt=1, status="final", asked="", t=T, supervisor="boss",
                worker="tiny", label="yes", scorer="exact", score=1.0, run_id=run,
            )
        )  # fmt: skip

    runs = Told("r1"), Told("r2")
    results = tmp_path / "a.jsonl"
    results.write_bytes(result("r1") + b"\n" + result("r2") + b"\n")
    beside = exported(write(tmp_path / "a.logs", *runs), select="correct")
    named = exported(write(tmp_path / "b", *runs), select="correct", results=[results])
    for made in (beside, named):
        assert (made.runs, made.dropped_runs) == (1, {UNSCORED: 1})
    told = [row.get("score.exact") for row in rows(tmp_path / "a.logs", "runs")]
    assert told == [None, 1.0]
    (score,) = rows(tmp_path / "a.logs", "scores")
    assert (score["run"], score["score"], score["expected"]) == ("r2", 1.0, "yes")
    answers = Answers([tmp_path / "a.logs"])
    while answers.look():
        pass
    shown = [[each["value"] for each in run["scores"]] for run in answers.state()["runs"]]
    assert shown == [[], [1.0]]


def test_a_group_of_an_export_is_a_task_of_a_scoring(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "log",
        Told("r1"), Told("r2", supervisor="other"), Told("r3", query="Is it?"),
        Told("r4", text="Who knows?"),
    )  # fmt: skip
    asked = {run.id: run.asked for run in recorded_in(folder).runs}
    read = sources([folder])
    read_runs(read[0])
    graded, _ = graded_runs(read, [])
    assert {each.run.id: each.group for each in graded} == asked
    assert [asked["r1"] == asked[f"r{number}"] for number in (2, 3, 4)] == [True, False, False]


@pytest.mark.parametrize("look", [read, validate])
def test_who_reads_whole_folders_says_so(look: Callable[[str], Any], tmp_path: Path) -> None:
    folder = write(tmp_path / "log", Told("r1"))
    with pytest.raises(InputError, match=r"read .*log, and take \.runs\['r1'\] of it"):
        look(f"{folder}#r1")


def test_provenance_says_why_it_finds_little(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", Told("r1"), Told("r2", redacted=("email",)))
    runs = read(folder).runs
    said = ["redacted" in "\n".join(provenance_summary.lines(runs[id_])) for id_ in ("r1", "r2")]
    assert said == [False, True]


def test_shares_that_are_not_nothing_do_not_look_so() -> None:
    said = [percent(share) for share in (0, 0.0006, 0.0174, 0.9995, 1)]
    assert said == ["0.0 %", "< 0.1 %", "1.7 %", "> 99.9 %", "100.0 %"]
