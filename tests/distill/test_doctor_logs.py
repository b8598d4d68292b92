"""``distill doctor`` of logs: one folder or several, all runs of one or only some."""

import json
from pathlib import Path
from typing import Any

import pytest

from distill.doctor_logs import check_logs
from distill.errors import InputError
from distill.traces.records import ParentCall
from tests.distill.written_logs import Told, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Runs that lack all that a run has between its ends; one asked for another."""
    below = ParentCall(run="r1", cell=1, call=2, item=0, key="k")
    return write(tmp_path / "log", Told("r1"), Told("r2"), Told("r1-1", parent=below))


def told(capsys: pytest.CaptureFixture[str], *named: Path | str) -> dict[str, Any]:
    code = check_logs([Path(each) for each in named], as_json=True, provenance=False)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (code == 0) == found["fine"]
    return found


def test_one_run_of_a_folder_with_its_sub_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, one = told(capsys, folder), told(capsys, f"{folder}#r1")
    assert [run["run"] for run in whole["runs"]] == ["r1", "r2", "r1-1"]
    assert [run["run"] for run in one["runs"]] == ["r1", "r1-1"]
    assert {"run r1", "run r2", "run r1-1"} <= {each["where"] for each in whole["problems"]}
    assert {each["where"] for each in one["problems"]} == {"run r1", "run r1-1"}
    with pytest.raises(InputError, match="no run r9; there are r1, r2"):
        told(capsys, f"{folder}#r9")


def test_a_line_that_can_not_be_read_may_be_of_any_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (folder / "supervisor.jsonl").open("ab") as file:
        file.write(b"{torn\n")
    where = [each["where"] for each in told(capsys, f"{folder}#r2")["problems"]]
    assert any(each.startswith("supervisor.jsonl:") for each in where)


def test_several_folders(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write(tmp_path / "other", Told("s1"))
    found = told(capsys, f"{folder}#r2", other)
    assert [(run["folder"], run["run"]) for run in found["runs"]] == [
        (str(folder), "r2"),
        (str(other), "s1"),
    ]
    assert check_logs([folder, other], as_json=False, provenance=False) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in (str(folder), str(other))] == [
        str(folder),
        str(other),
    ]
