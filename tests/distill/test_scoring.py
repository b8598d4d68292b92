"""Recorded runs are scored: what is appended, what is skipped, what stops and what goes on."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distill import OpenAIHandler, ascore, evaluate, score
from distill.errors import InputError
from distill.score_command import said
from distill.scorers import Sample, Scorer
from distill.scoring_lanes import ScoringProgress
from distill.supervisor.journal import Journal
from distill.traces import records
from tests.distill.scripted import SMALL, Endpoint, Reply, cell, endpoint, prompt_of
from tests.distill.written_logs import Told, scores_in, write

LABELS = {"a": "yes", "b": "no"}
PRICES = {"models": [{"models": ["scripted"], "input": 1e5, "output": 1e5}]}
"""A judge's reply is 11 tokens in and 4 out: $1.50. It might have been 4,096."""
ENOUGH = 5000.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "log", Told("r1"), Told("r2", task="b"), Told("r3", "no", task="b"))


@pytest.fixture
def judge() -> Iterator[Endpoint]:
    with endpoint(lambda _: "CORRECT") as server:
        yield server


def judge_at(server: Endpoint) -> str:
    return f"judge:scripted@{server.url}"


def test_scores_are_appended_and_the_last_one_counts(folder: Path) -> None:
    before = (folder / "supervisor.jsonl").read_bytes()
    told = score(folder, "exact", labels=LABELS)
    assert {(each.run, each.value, each.label) for each in scores_in(folder)} == {
        ("r1", 1.0, "yes"), ("r2", 0.0, "no"), ("r3", 1.0, "no"),
    }  # fmt: skip
    assert (folder / "supervisor.jsonl").read_bytes().startswith(before), "nothing is rewritten"
    (standing,) = told.comparisons["exact"].standings
    assert (standing.supervisor, standing.worker) == ("boss", "tiny")
    assert (standing.scored, standing.right, standing.accuracy) == (3, 2.0, 2 / 3)
    assert told.scored == 3
    assert {each.producer.kind for each in scores_in(folder)} == {"scorer"}

    again = score(folder, "exact", labels=LABELS)
    assert (again.scored, len(scores_in(folder))) == (0, 3), "it was scored already"
    assert again.comparisons == told.comparisons
    score(folder, "exact", labels=LABELS | {"b": "yes"})
    assert {each.run for each in scores_in(folder)[3:]} == {"r2", "r3"}, "the label is another"
    shown = score(folder)
    assert shown.comparisons["exact"].standings[0].right == 2.0, "r2 is right now, r3 is not"
    score(folder, "exact", labels=LABELS, again=True)
    assert len(scores_in(folder)) == 8


def test_what_is_not_scored_is_absent(tmp_path: Path) -> None:
    parent = records.ParentCall("r1", 1, 1, 0, "k")
    folder = write(
        tmp_path,
        Told("r1"),
        Told("none", None, status="unanswered"),
        Told("failed", None, status="failed"),
        Told("cut", has_end=False),
        Told("sub", parent=parent),
        Told("unlabelled", task="z", query="And that?"),
    )
    told = score(folder, "exact", labels=LABELS)
    assert {each.run: each.value for each in scores_in(folder)} == {"r1": 1.0, "none": 0.0}
    assert told.left_out == {
        "have failed": 1, "have no label": 1, "were cut off": 1,
    }  # fmt: skip
    (standing,) = told.comparisons["exact"].standings
    assert (standing.ended, standing.failed, standing.unanswered) == (4, 1, 1)
    assert (standing.accuracy, standing.accuracy_of_all) == (1 / 2, 1 / 3)


def test_a_scorer_that_says_nothing_leaves_nothing(folder: Path) -> None:
    def strict(sample: Sample) -> float | None:
        if sample.label is None:
            raise LookupError("no label")
        return None if sample.answer == "no" else 1

    told = score(folder, strict, labels={"b": "no"})
    assert [each.run for each in scores_in(folder)] == ["r2"]
    assert set(told.untold) == {"r1", "r3"}
    assert "no label" in told.untold["r1"]


LABEL_LINES = {
    "by task": '{"id": "a", "label": "yes"}\n\n{"id": "b", "label": "no"}\n',
    "a tasks file": '{"id": "a", "query": "?", "context": "t", "label": "yes"}\n'
    '{"id": "b", "query": "?", "path": "x", "label": "no"}\n{"id": "c", "query": "?"}\n',
    "by run": '{"run": "r1", "label": "yes"}\n{"run": "r2", "label": "no"}\n'
    '{"run": "r3", "label": "no"}',
    "a run goes first": '{"id": "a", "label": "yes"}\n{"id": "b", "label": "x"}\n'
    '{"run": "r2", "label": "no"}\n{"run": "r3", "label": "no"}',
}


@pytest.mark.parametrize("kind", LABEL_LINES)
def test_labels_of_a_file(kind: str, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text(LABEL_LINES[kind])
    score(folder, "exact", labels=file)
    assert {each.run: each.value for each in scores_in(folder)} == {"r1": 1, "r2": 0, "r3": 1}


def test_labels_of_no_run_are_told(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    lines = [LABEL_LINES["by task"], '{"id": "q", "label": 1}', '{"run": "r9", "label": 1}']
    lines.append('{"task": "old", "run_id": "r1", "label": "yes"}')  # a run is enough
    file.write_text("\n".join(lines))
    told = score(folder, "exact", labels=file)
    assert told.idle_labels == ["q", "r9"]
    assert "2 labels of none of these runs: q, r9" in list(said(told, "exact"))


def test_the_labels_of_earlier_scores_are_labels(folder: Path) -> None:
    score(folder, "exact", labels=LABELS | {"b": "yes"})
    score(folder, "exact", labels=LABELS)
    told = score(folder, "contains")
    assert told.scored == 3
    labels = {each.run: each.label for each in scores_in(folder) if each.scorer == "contains"}
    assert labels == {"r1": "yes", "r2": "no", "r3": "no"}
    assert score(folder, "exact").scored == 0


def test_redacted_labels_are_none(tmp_path: Path) -> None:
    folder = write(tmp_path, Told("r1", redacted=("email",)))
    score(folder, "exact", labels={"r1": "a@b.example"})
    with pytest.raises(InputError, match="no run has one: give --labels"):
        score(folder, "contains")


BAD_LABELS = {
    "no id": ('{"label": 1}', "line 1: a label is of an id or of a run"),
    "two labels": ('{"id": "a", "label": 1}\n{"id": "a", "label": 2}', "another label in line 1"),
    "no JSON": ('{"id": "a", "label": 1}\nlabel', "line 2"),
    "no label": ('{"id": "a"}', "has no line with a label"),
    "nobody's": ('{"id": "q", "label": 1}', "name none of these runs.* run r1, with the label 'a'"),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_labels_that_can_not_be_used(kind: str, folder: Path, tmp_path: Path) -> None:
    text, said = BAD_LABELS[kind]
    file = tmp_path / "labels.jsonl"
    file.write_text(text)
    with pytest.raises(InputError, match=said):
        score(folder, "exact", labels=file)
    assert scores_in(folder) == []


Refusal = Callable[[Path], Any]
REFUSED: dict[str, tuple[Refusal, str]] = {
    "no log folder": (lambda f: score(f / "no", "exact"), "holds no supervisor.jsonl"),
    "no such run": (lambda f: score(f"{f}#r9", "exact", labels=LABELS), "has no run r9"),
    "no labels": (lambda f: score(f, "number"), "no run has one: give --labels"),
    "no such scorer": (lambda f: score(f, "best", labels=LABELS), "no scorer 'best'"),
    "no judge": (lambda f: score(f, "exact", labels=LABELS, max_dollars=1), "asks none"),
    "no concurrency": (lambda f: score(f, "exact", concurrency=0), "concurrency is 1 to"),
    "no folder": (lambda _: score([], "exact"), "name the log folders"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_not_be_scored_is_refused_at_once(kind: str, folder: Path) -> None:
    call, said = REFUSED[kind]
    with pytest.raises(InputError, match=said):
        call(folder)
    assert scores_in(folder) == []


def test_one_run_of_a_folder_and_of_several(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", Told("s1"), Told("s2"))
    told = score([f"{folder}#r2", other], "exact", labels=LABELS)
    assert [each.run for each in scores_in(folder)] == ["r2"]
    assert {each.run for each in scores_in(other)} == {"s1", "s2"}
    assert told.comparisons["exact"].standings[0].ended == 3


def test_a_folder_that_is_written_to_stops_no_other(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", Told("s1"))
    with contextlib.closing(Journal(folder)):
        told = score([folder, other], "exact", labels=LABELS)
    assert [each.run for each in scores_in(other)] == ["s1"]
    assert scores_in(folder) == []
    assert "another distill is writing" in told.busy[folder.resolve()]
    shown = score([folder, other]).comparisons["exact"].standings[0]
    assert (shown.ended, shown.scored) == (4, 1)


def test_a_score_that_is_none_is_not_believed(folder: Path) -> None:
    score(folder, "exact", labels=LABELS)
    log = folder / "supervisor.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"value":0.0', b'"value":-7e9'))
    assert score(folder).comparisons["exact"].standings[0].scored == 2
    assert score(folder, "exact", labels=LABELS).scored == 1


def test_damaged_lines_are_counted_and_passed_over(folder: Path) -> None:
    log = folder / "supervisor.jsonl"
    log.write_bytes(b'{"type": "score", "run"\n\xff\xfe\n' + log.read_bytes() + b'{"type": "sco')
    told = score(folder, "exact", labels=LABELS)
    assert (told.scored, told.unreadable_lines) == (3, 3)
    assert len(scores_in(folder)) == 3, "the torn line was ended first"


# -- a judge


def test_a_judge_is_asked_once_at_a_time_or_more(folder: Path, judge: Endpoint) -> None:
    heard: list[ScoringProgress] = []
    told = score(
        folder, judge_at(judge), labels=LABELS, prices=PRICES, max_dollars=ENOUGH,
        on_progress=heard.append,
    )  # fmt: skip
    assert len(judge.requests) == 3
    assert sum('"expected": "yes"' in prompt_of(each) for each in judge.requests) == 1
    first = scores_in(folder)[0]
    assert (first.scorer, first.value, first.detail) == ("judge:scripted", 1.0, "CORRECT")
    assert first.usage == records.TokenUsage(11, 4)
    assert first.dollars == pytest.approx(1.5)
    assert told.dollars == pytest.approx(4.5)
    assert told.judge_usage.input_tokens == 33
    assert told.comparisons["judge:scripted"].standings[0].judge_usage is not None
    assert (heard[-1].done, heard[-1].total, heard[-1].dollars) == (3, 3, told.dollars)
    score(folder, judge_at(judge), labels=LABELS)
    assert len(judge.requests) == 3


def test_a_judge_needs_no_label(folder: Path, judge: Endpoint) -> None:
    score(folder, judge_at(judge))
    assert "expected" not in prompt_of(judge.requests[0]).partition("{")[2]
    assert "Nobody has written down the right answer" in prompt_of(judge.requests[0])
    assert [each.label for each in scores_in(folder)] == [None] * 3
    score(folder, judge_at(judge), labels=LABELS)
    assert len(judge.requests) == 6, "with a label it is another question"


def test_a_budget_ends_it_and_it_goes_on_from_there(folder: Path, judge: Endpoint) -> None:
    """A question may take much more than it does: one that another is still held for can wait."""
    most = score_once_and_tell_the_most(judge, folder.parent / "probe")
    options: Any = {"labels": LABELS, "prices": PRICES}
    told = score(folder, judge_at(judge), max_dollars=most + 1.5, concurrency=3, **options)
    assert told.stopped is not None
    assert told.stopped.budget == "dollars"
    assert (told.scored, len(scores_in(folder))) == (2, 2), "what was scored stays"
    told = score(folder, judge_at(judge), max_dollars=most, **options)
    assert (told.scored, told.stopped) == (1, None)
    assert len({each.run for each in scores_in(folder)}) == 3


def score_once_and_tell_the_most(judge: Endpoint, folder: Path) -> float:
    """What one question to the judge may cost: the refusal of nearly nothing says so."""
    write(folder, Told("r1"), Told("r2", task="b"), Told("r3", "no", task="b"))
    told = score(folder, judge_at(judge), labels=LABELS, prices=PRICES, max_dollars=0.01)
    assert told.stopped is not None
    assert judge.requests == []
    assert scores_in(folder) == []
    needed = str(told.stopped).rpartition("up to $")[2].removesuffix(" needed")
    return float(needed.replace(",", "")) + 1


def test_a_judge_without_a_price_can_not_be_limited(folder: Path, judge: Endpoint) -> None:
    handler = OpenAIHandler("scripted", judge.url, "none")
    handler.endpoint = "far.example.com"  # nobody's price table has it
    with pytest.raises(InputError, match="there is no price of scripted"):
        score(folder, Scorer("judge:scripted", judge=handler), max_dollars=1)
    assert judge.requests == []


def test_a_judge_that_fails_or_mumbles(folder: Path, judge: Endpoint) -> None:
    refused = Reply({"error": {"message": "no"}}, 400)
    replies: list[Any] = [refused, "Hm.", "Hm.", "CORRECT"]
    judge.answer = lambda _: replies.pop(0)
    options: Any = {"labels": LABELS, "prices": PRICES, "max_dollars": ENOUGH}
    told = score(folder, judge_at(judge), concurrency=1, **options)
    assert [(each.run, each.value) for each in scores_in(folder)] == [("r2", None), ("r3", 1.0)]
    assert scores_in(folder)[0].dollars == pytest.approx(3.0), "it was asked twice, and paid for"
    assert set(told.untold) == {"r1", "r2"}
    standing = told.comparisons["judge:scripted"].standings[0]
    assert (standing.scored, standing.accuracy) == (1, 1.0)
    judge.answer = lambda _: "INCORRECT"
    told = score(folder, judge_at(judge), **options)
    assert (told.scored, told.untold) == (2, {})


def test_many_at_a_time_and_never_more(tmp_path: Path, judge: Endpoint) -> None:
    folder = write(tmp_path, *(Told(f"r{n}") for n in range(6)))
    together, gate = threading.Barrier(3, timeout=20), threading.Lock()
    now, most = 0, 0

    def answer(_: Any) -> str:
        nonlocal now, most
        with gate:
            now += 1
            most = max(most, now)
        together.wait()
        with gate:
            now -= 1
        return "CORRECT"

    judge.answer = answer
    assert score(folder, judge_at(judge), concurrency=3).scored == 6
    assert most == 3


def test_a_scoring_that_is_cancelled_keeps_what_it_has(tmp_path: Path, judge: Endpoint) -> None:
    folder = write(tmp_path, *(Told(f"r{n}", task=None) for n in range(4)))
    held, let_go = threading.Event(), threading.Event()

    def answer(request: Any) -> str:
        if len(judge.requests) > 2 and not let_go.is_set():
            held.set()
            let_go.wait(30)
        return "CORRECT"

    judge.answer = answer

    async def cut_off() -> None:
        going = asyncio.ensure_future(ascore(folder, judge_at(judge), concurrency=1))
        await asyncio.to_thread(held.wait, 30)
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going

    asyncio.run(cut_off())
    let_go.set()
    assert len(scores_in(folder)) == 2
    assert score(folder, judge_at(judge)).scored == 2
    assert len(judge.requests) == 3 + 2


# -- what an evaluation has left


def boss(request: dict[str, Any]) -> str:
    return cell("FINAL('yes')" if "Is it?" in json.dumps(request) else "1 / 0\nFINAL('no')")


def test_an_evaluation_gives_the_labels_and_its_scores(tmp_path: Path, judge: Endpoint) -> None:
    tasks: list[dict[str, Any]] = [
        {"id": "a", "query": "Is it?", "context": "It is.", "label": "yes"},
        {"id": "b", "query": "Is it?", "context": "It is not.", "label": "no", "attempts": 2},
        {"id": "c", "query": "Is it?", "context": "Who knows?"},
    ]
    with endpoint(boss) as supervisor, endpoint(lambda _: "x") as worker:
        models = [OpenAIHandler("scripted", each.url, "none") for each in (supervisor, worker)]
        done = evaluate(
            tasks, *models, results=tmp_path / "t.jsonl", scorer=judge_at(judge), limits=SMALL
        )
    assert len(judge.requests) == 3
    folder = done.log_dir
    score(folder, judge_at(judge))
    assert len(judge.requests) == 4, "the one without a label; the others' scores are taken over"
    assert sorted(each.value or 0.0 for each in scores_in(folder)) == [1.0] * 4
    told = score(folder, "exact")
    (standing,) = told.comparisons["exact"].standings
    summary = done.summary
    assert (standing.scored, standing.right, standing.tasks) == (3, 1.0, 3)
    for name in ("iterations", "supervisor_usage", "worker_usage", "worker_calls", "dollars"):
        assert getattr(standing, name) == getattr(summary, name), name
    assert summary.interval is not None
    assert set(score(folder).comparisons) == {"judge:scripted", "exact"}
