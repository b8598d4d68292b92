"""Iterators and tables over logs: every record with what it belongs to, in little memory."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distill import run
from distill.errors import InputError, ModelError
from distill.traces import Logs, frame, read, records, rows, validate
from tests.distill.scripted import Supervisor, Worker, cell
from tests.view.logs import logs_runs

ROOT = Path(__file__).resolve().parents[2]
VERSION_1 = Path(__file__).parent / "version_1_log"
"""Written by distill of 2026-11-23, before version 2 of the schema."""
TEXTS = {
    name: "".join(f"In {name}, sentence {n} tells of the {n * 7919}th thing. " for n in range(40))
    for name in ("one", "two")
}
CODE = """\
print(worker_batch([context['two'][100:260], context['one'] + ' and ' + context['two'], 'bare']))
worker('fails')"""


def answer(prompt: str) -> str:
    if prompt == "fails":
        raise ModelError("refused")
    return f"<{prompt[:9]}>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs in one folder."""
    made = tmp_path_factory.mktemp("logs")
    for number in range(2):
        boss = Supervisor("no code", cell(CODE), cell("FINAL(look(1))"))
        run(
            f"What {number}?", TEXTS, boss, Worker(answer), log_dir=made, label=f"task-{number}",
            primitives={"look": lambda key: [key]},
        )  # fmt: skip
    return made


def names(folder: Path) -> list[str]:
    return list(read(folder).runs)


def test_calls_come_with_all_that_they_belong_to(folder: Path) -> None:
    calls = list(Logs(folder).calls())
    assert Counter(call.run.id for call in calls) == dict.fromkeys(names(folder), 4)
    for call in calls:
        assert call.run.start is not None
        assert call.turn is not None
        assert call.cell is not None
        assert call.batch is not None
        assert (call.turn.turn, call.cell.cell) == (2, 1)
        assert call.batch.items == (1 if call.record.function == "worker" else 3)
        for chunk in call.chunks():
            assert chunk.span.part is not None
            assert chunk.text == TEXTS[chunk.span.part][chunk.span.start : chunk.span.end]
    assert Counter(len(call.chunks()) for call in calls) == {0: 4, 1: 2, 2: 2}


def test_turns_and_cells_come_with_theirs(folder: Path) -> None:
    (one, _) = names(folder)
    logs = Logs(f"{folder}#{one}")
    turns = list(logs.turns())
    assert [(t.record.turn, len(t.cells), t.run.id) for t in turns] == [
        (1, 0, one), (2, 1, one), (3, 1, one),
    ]  # fmt: skip
    assert next(t.reply.content for t in turns if t.reply is not None) == "no code"
    cells = list(logs.cells())
    assert [(c.record.status, c.turn and c.turn.turn) for c in cells] == [
        ("error", 2),
        ("final", 3),
    ]
    assert [(len(c.batches), len(c.primitives)) for c in cells] == [(2, 0), (0, 1)]


def test_runs_are_named_by_folder_or_one_by_one(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "with#sign"
    shutil.copytree(folder, other)
    one, two = names(folder)
    assert [r.id for r in Logs(folder).runs()] == [one, two]
    assert [r.id for r in Logs(f"{folder}#{two}", f"{folder}#{two}").runs()] == [two]
    assert [r.id for r in Logs(f"{folder}#{two}", folder).runs()] == [one, two]
    both = [(r.folder, r.id) for r in Logs(folder, f"{other}#{two}").runs()]
    assert both == [(folder, one), (folder, two), (other, two)]
    assert [r.calls for r in Logs(folder).runs()] == [[], []]
    assert list(Logs().calls()) == []
    with pytest.raises(InputError, match="no run nobody"):
        list(Logs(f"{folder}#nobody").runs())
    with pytest.raises(InputError, match="not a log folder"):
        Logs(folder, tmp_path)


def test_skipped_lines_are_named_each_time_around(folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    for log in records.LOG_RECORDS:
        (damaged / log).write_bytes(b"torn\n" + (damaged / log).read_bytes())
    logs = Logs(damaged)
    for _ in range(2):
        assert len(list(logs.calls())) == 8
        assert [(s.file, s.line) for s in logs.skipped] == [
            ("supervisor.jsonl", 1), ("worker.jsonl", 1),
        ]  # fmt: skip


def test_calls_are_read_as_they_are_asked_for(folder: Path, tmp_path: Path) -> None:
    """Or what is written after the first one would not come."""
    growing = tmp_path / "growing"
    shutil.copytree(folder, growing)
    calls = Logs(growing).calls()
    first = next(calls)
    with (growing / records.WORKER_LOG).open("ab") as log:
        log.write((folder / records.WORKER_LOG).read_bytes())
    ids = Counter([first.record.id, *(call.record.id for call in calls)])
    assert set(ids.values()) == {2}


def test_synthetic_runs_are_as_whole_as_real_ones(tmp_path: Path) -> None:
    """Those that bench/logs reads."""
    runs = logs_runs()
    for calls in (0, 1, 250):
        runs.write_run(tmp_path / str(calls), calls, batch_calls=40, turn_calls=100, logprobs=True)
        runs.write_run(tmp_path / str(calls), calls, run="another", ids=False, context_chars=5000)
        trace, problems = validate(tmp_path / str(calls))
        assert problems == []
        assert trace.call_counts == Counter({runs.RUN: calls, "another": calls})
    sizes = [len(line) for line in _lines(tmp_path / "250", records.WORKER_LOG) if "spans" in line]
    assert 1500 < sum(sizes) / len(sizes) < 2500


# -- tables


@pytest.mark.parametrize("of", ["runs", "turns", "cells", "calls", "scores"])
def test_tables_have_the_columns_that_the_document_names(folder: Path, of: Any) -> None:
    text = (ROOT / "docs" / "traces.md").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(f"| `{of}` |")]
    named = [word for word in line.split("|")[3].split("`")[1::2] if word != "score.NAME"]
    scored = _scored(folder)
    for row in rows(scored, of):
        found = [column for column in row if not column.startswith("score.")]
        assert found == ["folder", "run", "label", *named]
    shutil.rmtree(scored)


def _scored(folder: Path) -> Path:
    """A copy of the folder in which the first run has been scored, twice by one scorer."""
    copy = folder.with_name("scored")
    shutil.copytree(folder, copy)
    scorer = records.Producer("scorer", "score", 1)
    with (copy / records.SUPERVISOR_LOG).open("ab") as log:
        for name, value in (("exact", 0.0), ("judge:m", None), ("exact", 1.0)):
            score = records.Score(
                t=1.0, run=names(folder)[0], producer=scorer, scorer=name, value=value, label=[1]
            )
            log.write(json.dumps(_plain(score)).encode() + b"\n")
    return copy


def _plain(record: records.Record) -> Any:
    import msgspec

    return msgspec.to_builtins(record)


@pytest.fixture
def scored(folder: Path) -> Iterator[Path]:
    made = _scored(folder)
    yield made
    shutil.rmtree(made)


def test_the_last_score_of_a_scorer_counts(scored: Path) -> None:
    (one, two) = read(scored).runs.values()
    assert {name: score.value for name, score in one.scored.items()} == {
        "exact": 1.0, "judge:m": None,
    }  # fmt: skip
    assert len(one.scores) == 3
    assert two.scored == {}
    assert validate(scored)[1] == []
    told = frame(scored, "runs")
    assert told["score.exact"].tolist()[0] == 1.0
    assert told["score.exact"].isna().tolist() == [False, True]
    table = frame(scored, "scores")
    assert table[["scorer", "expected"]].values.tolist() == [["exact", [1]], ["judge:m", [1]]]


def test_a_frame_has_a_row_each_and_what_the_records_say(folder: Path) -> None:
    calls = frame(folder)
    told = [call for each in read(folder).runs.values() for call in each.calls]
    assert isinstance(calls, pd.DataFrame)
    assert sorted(calls["id"]) == sorted(call.id for call in told)
    assert calls["response"].isna().sum() == 2
    assert calls.groupby("label")["input_tokens"].sum().to_dict() == {"task-0": 21, "task-1": 21}
    assert calls.loc[calls["chunks"] > 0, "chunk_part"].isin(["one", "two"]).all()
    assert "token_ids" not in calls
    assert {"prompt_token_ids", "token_ids", "logprobs"} <= set(frame(folder, ids=True))
    ended = frame([folder], "runs")
    assert ended["answer"].tolist() == [[1], [1]]
    assert ended["status"].tolist() == ["final", "final"]
    with pytest.raises(InputError, match="no table 'lines'"):
        frame(folder, "lines")  # type: ignore[arg-type]


# -- versions


def test_a_log_of_version_1_is_read_and_gone_on_with(tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(VERSION_1, old)
    versions = {json.loads(line)["v"] for log in records.LOG_RECORDS for line in _lines(old, log)}
    assert versions == {1}
    assert validate(old)[1] == []
    (told,) = Logs(old).runs()
    before = len(list(Logs(old).calls()))
    assert (told.answer, before) == ("done", 4)
    run("Another?", "a text", Supervisor(cell("FINAL(worker('hi'))")), Worker(), log_dir=old)
    trace, problems = validate(old)
    assert problems == []
    assert [each.answer for each in trace.runs.values()] == ["done", "<hi>"]
    assert len(list(Logs(old).calls())) == before + 1
    versions = {json.loads(line)["v"] for log in records.LOG_RECORDS for line in _lines(old, log)}
    assert versions == {1, 2}


def _lines(folder: Path, log: str) -> list[str]:
    return (folder / log).read_text("utf-8").splitlines()
