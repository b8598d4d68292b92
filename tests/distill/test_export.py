"""``distill export``: which runs and rows, how they are shared out, what is written and told."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from distill import export, run, score
from distill.cli import cli
from distill.errors import InputError
from distill.exports.formats import FORMATS
from distill.exports.formats.worker_sft import WorkerSft
from distill.exports.grading import graded_runs
from distill.exports.levels import OF_RUNS
from distill.exports.material import Material
from distill.exports.reading import read_runs, sources
from distill.exports.row import Dropped, Format, Made, OriginRow, origin
from distill.traces import read, records
from tests.distill.exported import TEXTS, evaluated
from tests.distill.scripted import SMALL, Supervisor, Worker, cell, run_bounded
from tests.distill.written_logs import Told, write

LOGS = "tasks.results.logs"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log folder of an evaluation, with its results beside it; nobody writes to it."""
    folder = tmp_path_factory.mktemp("evaluated")
    evaluated(folder)
    return folder / LOGS


def rows_in(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    lines = (folder / f"{split}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text("utf-8"))


# -- which runs


def test_worker_calls_become_prompts_and_completions(logs: Path, tmp_path: Path) -> None:
    made = export(logs, tmp_path / "out", format="worker-sft")
    rows = rows_in(tmp_path / "out")
    runs = read(logs).runs.values()
    calls = {call.id: call for run in runs for call in run.calls if call.messages}
    assert [row["call"] for row in rows] == list(calls)
    for row in rows:
        call = calls[row["call"]]
        assert row["prompt"] == [dict(each) for each in call.messages or ()]
        assert row["completion"] == [{"role": "assistant", "content": call.response}]
        assert row["run"] == call.run
    assert {row["task"] for row in rows} == {
        "long-and-short", "wrong", "plain", "linked", "other",
    }  # fmt: skip
    scores = {row["task"]: row["score"] for row in rows}
    assert (scores["plain"], scores["wrong"]) == (1.0, 0.0)
    assert (made.runs, made.runs_read, made.rows) == (7, 7, {"train": 17})


SELECTED = {
    "all": ["bare", "linked", "long-and-short", "long-and-short", "other", "plain", "wrong"],
    "correct": ["linked", "long-and-short", "long-and-short", "plain"],
    "best": ["bare", "linked", "long-and-short", "other", "plain", "wrong"],
    "shortest": ["linked", "long-and-short", "plain"],
}


@pytest.mark.parametrize("select", SELECTED)
def test_selection_within_a_question(logs: Path, tmp_path: Path, select: Any) -> None:
    made = export(logs, tmp_path / "out", format="supervisor-sft", select=select)
    rows = rows_in(tmp_path / "out")
    assert sorted(row["task"] for row in rows) == SELECTED[select]
    assert made.runs + made.dropped_runs.total() == made.runs_read == 7
    if select in ("best", "shortest"):  # of two that are right, the one without detours
        (only,) = [row for row in rows if row["task"] == "long-and-short"]
        assert [m["weight"] for m in only["messages"] if m["role"] == "assistant"] == [1]


def test_a_run_is_named_alone(logs: Path, tmp_path: Path) -> None:
    first, *_ = read(logs).runs
    made = export(f"{logs}#{first}", tmp_path / "out", format="worker-sft")
    assert {row["run"] for row in rows_in(tmp_path / "out")} == {first}
    assert made.runs_read == 1
    with pytest.raises(InputError, match="no run nowhere; there are"):
        export(f"{logs}#nowhere", tmp_path / "new", format="worker-sft")


def test_what_can_be_trained_on_alone_is_left(logs: Path, tmp_path: Path) -> None:
    where = ["run.task == 'plain'", "call.output_tokens <= 3 and 'Is it' in call.prompt"]
    made = export(logs, tmp_path / "out", format="worker-sft", where=where)
    assert {row["task"] for row in rows_in(tmp_path / "out")} == {"plain"}
    assert made.dropped_runs == {f"--where {where[0]}": 6}
    with pytest.raises(InputError, match=r"no row is left.*call\.attempt > 1"):
        export(logs, tmp_path / "none", format="worker-sft", where="call.attempt > 1")
    assert not (tmp_path / "none").exists()


# -- rows


def test_messages_whose_code_failed_have_no_weight(logs: Path, tmp_path: Path) -> None:
    export(logs, tmp_path / "out", format="supervisor-sft", where="run.turns == 4")
    (row,) = rows_in(tmp_path / "out")
    said = [(m["weight"], m["content"]) for m in row["messages"] if m["role"] == "assistant"]
    assert [weight for weight, _ in said] == [1, 0, 0, 1]
    assert "1 / 0" in said[1][1]
    assert row["learnt"] == 2
    assert {m["weight"] for m in row["messages"] if m["role"] != "assistant"} == {0}
    (run,) = [run for run in read(logs).runs.values() if len(run.turns) == 4]
    asked = run.conversation(4)
    assert [{"role": m["role"], "content": m["content"]} for m in row["messages"][:-1]] == asked
    export(logs, tmp_path / "turns", format="supervisor-turns", where="run.turns == 4")
    rows = rows_in(tmp_path / "turns")
    assert [row["prompt"] for row in rows] == [run.conversation(1), run.conversation(4)]
    assert [row["completion"][0]["content"] for row in rows] == [said[0][1], said[3][1]]


def test_a_turn_that_where_leaves_out_has_no_weight(logs: Path, tmp_path: Path) -> None:
    export(
        logs, tmp_path / "out", format="supervisor-sft",
        where=["run.turns == 4", "turn.turn == 1"],
    )  # fmt: skip
    (row,) = rows_in(tmp_path / "out")
    assert [m["weight"] for m in row["messages"] if m["role"] == "assistant"] == [1, 0, 0, 0]


def problems_for_openai(line: dict[str, Any]) -> list[str]:
    """What OpenAI's guide to preparing chat data checks, and its description of the endpoint."""
    found = [f"key {key}" for key in line if key not in ("messages", "tools", "functions")]
    for message in line["messages"]:
        found += [f"key {key}" for key in message if key not in ("role", "content", "weight")]
        if message["role"] not in ("system", "user", "assistant"):
            found.append(f"role {message['role']}")
        if not isinstance(message["content"], str) or not message["content"]:
            found.append("no content")
        if "weight" in message and (
            message["role"] != "assistant" or message["weight"] not in (0, 1)
        ):
            found.append("weight")
    if line["messages"][-1]["role"] != "assistant" or line["messages"][-1].get("weight") == 0:
        found.append("the last message is not learnt")
    return found


@pytest.mark.parametrize("kind", ["openai-supervisor", "openai-worker"])
def test_openai_takes_the_file(logs: Path, tmp_path: Path, kind: str) -> None:
    made = export(logs, tmp_path / "out", format=kind)
    rows = rows_in(tmp_path / "out")
    assert [problems_for_openai(row) for row in rows] == [[]] * len(rows)
    assert any("10" in each for each in made.warnings) == (len(rows) < 10)
    assert {m.get("weight") for row in rows for m in row["messages"]} >= {None, 1}
    with pytest.raises(InputError, match="--as parquet"):
        export(logs, tmp_path / "new", format=kind, as_="parquet")


def test_prompts_with_and_without_a_template_are_kept_apart(logs: Path, tmp_path: Path) -> None:
    chat = export(logs, tmp_path / "chat", format="worker-sft")
    bare = export(logs, tmp_path / "bare", format="worker-sft-text")
    assert chat.dropped_rows == {"a bare prompt has no messages (worker-sft-text takes it)": 3}
    assert bare.dropped_rows == {"an endpoint's template is not known (worker-sft takes it)": 17}
    row, *_ = rows_in(tmp_path / "bare")
    runs = read(logs).runs.values()
    (run,) = [run for run in runs if run.start is not None and run.start.label == "bare"]
    assert (row["prompt"], row["completion"]) == (run.calls[0].prompt, run.calls[0].response)


def test_demonstrations_are_few_and_not_from_the_text(logs: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    # The text that they will be used on has a passage of A in it.
    own.write_text(f"Of this nobody knows. {TEXTS['A'][200:1200].upper()} And so on.")
    made = export(logs, tmp_path / "out", format="few-shot", rows=4, not_from=[own])
    rows = rows_in(tmp_path / "out")
    assert len(rows) == 4
    for row in rows:
        assert row["chunk"] in "".join([TEXTS["B"], TEXTS["C"], TEXTS["D"], TEXTS["E"]])
        assert row["instruction"] == "Is it here? {chunk}"
        assert (row["chunk_chars"], row["response_chars"]) == (
            len(row["chunk"]), len(row["response"]),
        )  # fmt: skip
    assert len({row["document"] for row in rows}) == 4
    assert [row["chunk_chars"] for row in rows] == sorted(row["chunk_chars"] for row in rows)
    assert made.dropped_rows["from a text that it must not be from (--not-from)"] == 9
    alike, enough = "the same answer about the same passage", "not picked: there are enough"
    assert (made.dropped_rows[alike], made.dropped_rows[enough]) == (1, 6)
    # Where there are too few, nobody says that there are enough.
    made = export(logs, format="few-shot", dry_run=True)
    assert made.rows["train"] < 32
    assert set(made.dropped_rows) == {alike}


def test_demonstrations_do_not_contradict_each_other(tmp_path: Path) -> None:
    """Several were asked about one passage; one run's vote was right, the other's wrong."""

    def voted(name: str, *said: str) -> None:
        """The last one that a worker says is the answer."""
        question = "f'Who lit the lamp? {context}'"
        asks = f"worker_batch([{question}] * {len(said)}, temperature=1)\nFINAL({said[-1]!r})"
        left = list(said)
        models = Supervisor(cell(asks)), Worker(lambda _: left.pop(0))
        run_bounded(
            lambda: run(
                "Who?", "The lamp was lit again by the keeper, and they read by its light.",
                *models, log_dir=tmp_path / name, label=name, limits=SMALL,
            )
        )  # fmt: skip

    voted("no", "Ann", "Ann", "Ann")
    voted("yes", "Ann", "Al", "Ben")
    logs = [tmp_path / "no", tmp_path / "yes"]
    score(logs, "exact", labels={"no": "Ben", "yes": "Ben"})
    for named in (logs, logs[::-1]):
        out = tmp_path / f"from-{named[0].name}"
        made = export(named, out, format="few-shot")
        (row,) = rows_in(out)
        assert (row["response"], row["score"], row["task"]) == ("Ben", 1.0, "yes")
        assert sum(made.dropped_rows.values()) == 5
        assert made.dropped_rows["another answer about the same passage"] >= 2


class AnswerRow(OriginRow, frozen=True, kw_only=True):
    """A question with its answer.

    Attributes:
    question: what was asked
    answer: what came of it
    """

    question: str
    answer: str


class Answers(Format):
    name = "answers"
    about = "questions and answers"
    read_by = "people"
    row = AnswerRow
    asks = OF_RUNS

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        for graded in material.runs:
            if not isinstance(graded.run.answer, str):
                yield Dropped("the answer is no text")
                continue
            texts = (graded.start.query, graded.run.answer)
            row = AnswerRow(question=texts[0], answer=texts[1], **origin(graded))
            yield Made(row, graded, texts)


def test_a_format_of_ones_own(logs: Path, tmp_path: Path) -> None:
    made = export(logs, tmp_path / "out", format=Answers(), dedup=True, as_="parquet")
    assert made.rows == {"train": 5}
    assert made.dropped_rows == {"the answer is no text": 1, "exact duplicate": 1}
    assert manifest(tmp_path / "out")["options"]["format"] == "answers"
    card = (tmp_path / "out/README.md").read_text("utf-8")
    assert "| `question` | str | what was asked |" in card
    with pytest.raises(InputError, match=r"of answers can be asked about run\.… only"):
        export(logs, format=Answers(), where="turn.turn == 1", dry_run=True)


# -- duplicates


def test_duplicates_are_dropped_and_counted(logs: Path, tmp_path: Path) -> None:
    made = export(logs, tmp_path / "out", format="worker-sft", dedup=True)
    # Both attempts and the wrong one ask the same of A; the linked text has B in it.
    assert made.dropped_rows["exact duplicate"] == 7
    prompts = [row["prompt"][0]["content"] for row in rows_in(tmp_path / "out")]
    assert len(set(prompts)) == len(prompts) == 10


# -- splits


def test_no_text_is_on_two_sides(logs: Path, tmp_path: Path) -> None:
    """B stands alone and in a list, so that its runs belong together, with any seed."""
    sides: dict[str, set[tuple[str, ...]]] = {"plain": set(), "linked": set(), "wrong": set()}
    for seed in range(12):
        out = tmp_path / str(seed)
        made = export(
            logs, out, format="worker-sft", split="train=0.5,val=0.25,test=0.25", seed=seed
        )
        where: dict[str, str] = {}
        for split, count in made.rows.items():
            for row in rows_in(out, split) if count else ():
                assert where.setdefault(row["task"], split) == split
        assert where["plain"] == where["linked"]
        assert where["wrong"] == where["long-and-short"]
        for task, seen in sides.items():
            seen.add((where[task],))
    assert all(len(seen) == 3 for seen in sides.values())  # the seed decides


def test_a_text_stays_on_its_side_when_more_is_exported(logs: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"format": "worker-sft", "split": {"train": 0.5, "test": 0.5}}
    export(logs, tmp_path / "all", **options)
    export(logs, tmp_path / "some", where="run.task == 'other'", **options)
    (side,) = [name for name in ("train", "test") if (tmp_path / f"some/{name}.jsonl").exists()]
    assert "other" in {row["task"] for row in rows_in(tmp_path / "all", side)}


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("train=0.9", "add up to 0.9"),
        ("train=0.5,train=0.5", "a name of its own"),
        ("a b=1", "letters, digits"),
        ("train", "NAME=SHARE"),
        ("train=2,test=-1", "a share above 0"),
        ("train=nan", "a share above 0"),
    ],
)
def test_wrong_splits(logs: Path, split: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        export(logs, format="worker-sft", split=split, dry_run=True)


# -- what is written


def test_the_same_again_is_the_same_to_the_byte(logs: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"format": "few-shot", "rows": 5, "split": "a=0.5,b=0.5", "seed": 4}
    export(logs, tmp_path / "one", **options)
    export(logs, tmp_path / "two", **options)
    files = [each["sha256"] for each in manifest(tmp_path / "one")["files"]]
    assert files == [each["sha256"] for each in manifest(tmp_path / "two")["files"]]


def test_the_manifest_tells_all(logs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = export(
        [logs], out, format="worker-sft", where="run.score == 1", select="best", dedup=True
    )
    told = manifest(out)
    (source,) = told["inputs"]
    assert source["folder"] == str(logs)
    for each in source["files"]:
        data = (logs / each["file"]).read_bytes()
        assert (each["bytes"], each["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert [each["file"] for each in told["results"]] == [str(logs.with_suffix(".jsonl"))]
    assert told["options"]["where"] == ["run.score == 1"]
    assert told["runs"] == {"read": 7, "chosen": 3, "dropped": dict(made.dropped_runs)}
    assert told["rows"]["written"] == made.rows["train"] == 7
    (file,) = told["files"]
    assert file["sha256"] == hashlib.sha256((out / file["file"]).read_bytes()).hexdigest()
    assert set(told["versions"]) == {"distill", "schema", "python"}
    for name in ("train.jsonl", "manifest.json", "README.md"):
        assert (out / name).stat().st_mode & 0o777 == 0o600
    assert out.stat().st_mode & 0o777 == 0o700


def test_the_card_says_what_it_is(logs: Path, tmp_path: Path) -> None:
    export(logs, tmp_path / "out", format="supervisor-sft", split="train=0.5,test=0.5", seed=1)
    card = (tmp_path / "out/README.md").read_text("utf-8")
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert "- split: train\n    path: train.jsonl" in head
    assert "- split: test\n    path: test.jsonl" in head
    for words in ("# out", "`Boss` (7 runs)", "## Licence", "| `messages` |", "TRL", "weight 1"):
        assert (words in body) == (words != "TRL"), words


def test_the_card_says_what_correct_means_for_worker_calls(logs: Path, tmp_path: Path) -> None:
    for kind, select in (("worker-sft", "correct"), ("worker-sft", "all"), ("atif", "correct")):
        out = tmp_path / kind / select
        export(logs, out, format=kind, select=select)  # type: ignore[arg-type]
        card = (out / "README.md").read_text("utf-8")
        is_told = "`--where call.in_answer` keeps those" in card
        assert is_told == (kind == "worker-sft" and select == "correct")


def test_one_is_told_as_one(copied: Path, tmp_path: Path) -> None:
    log, (first, *_) = copied / "supervisor.jsonl", read(copied).runs
    # One run, redacted, whose replies no model wrote.
    said = log.read_text().replace('"supervisor":"Boss"', '"supervisor":"recipe:find"')
    log.write_text(said.replace('"redacted":[]', '"redacted":["email"]'))
    out = tmp_path / "out"
    made = export(f"{copied}#{first}", out, format="supervisor-sft")
    assert [each.partition(": the")[0] for each in made.warnings] == [
        "1 of 1 run redacted when logged: what was found is █ in the rows",
        "1 run of recipe:find",
    ]
    card = (out / "README.md").read_text("utf-8")
    assert not re.search(r"\b1 (rows|runs|texts|log folders)\b", card)
    worker = export(f"{copied}#{first}", format="worker-sft", dry_run=True)
    assert worker.warnings == made.warnings[:1]
    nobody = "run.supervisor != 'recipe:find'"
    with pytest.raises(InputError, match="1 run: --where"):
        export(f"{copied}#{first}", format="supervisor-sft", where=nobody, dry_run=True)


def test_every_column_has_a_meaning() -> None:
    from distill.exports.columns import meanings, type_names

    for format_ in FORMATS.values():
        told = meanings(format_.row)
        assert set(type_names(format_.row)) == set(told), format_.name
        # A card shows each on a line of a table: there is no above or below.
        assert not re.search(r"\b(above|below)\b", " ".join(told.values())), format_.name


@pytest.mark.parametrize(
    "kind", ["few-shot", "worker-sft", "worker-sft-text", "supervisor-sft", "supervisor-turns"]
)
def test_parquet_holds_the_same_rows(logs: Path, tmp_path: Path, kind: str) -> None:
    from pyarrow import parquet

    export(logs, tmp_path / "lines", format=kind)
    export(logs, tmp_path / "table", format=kind, as_="parquet")
    table = parquet.read_table(tmp_path / "table/train.parquet")
    assert table.to_pylist() == rows_in(tmp_path / "lines")


def test_nothing_is_overwritten(logs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export(logs, out, format="worker-sft")  # an empty folder is as good as none
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="is not empty"):
        export(logs, out, format="worker-sft")
    assert (out / "manifest.json").read_bytes() == before
    with pytest.raises(InputError, match="is no folder"):
        export(logs, out / "manifest.json", format="worker-sft")
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_nothing_is_left_of_an_export_that_fails(logs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row is left"):
        export(logs, tmp_path / "out", format="worker-sft", where="run.turns > 99")
    with pytest.raises(InputError, match="can't be said of run"):
        export(logs, tmp_path / "out", format="worker-sft", where="call.prompt < 3")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_counts_and_writes_nothing(logs: Path, tmp_path: Path) -> None:
    dry = export(logs, tmp_path / "out", format="worker-sft", dedup=True, dry_run=True)
    assert list(tmp_path.iterdir()) == []
    wet = export(logs, tmp_path / "out", format="worker-sft", dedup=True)
    assert (dry.rows, dry.dropped_rows) == (wet.rows, wet.dropped_rows)
    assert (dry.out, wet.out) == (None, tmp_path / "out")
    # What the real one refuses, it refuses.
    with pytest.raises(InputError, match="is not empty"):
        export(logs, tmp_path / "out", format="worker-sft", dry_run=True)
    with pytest.raises(InputError, match="no row is left"):
        export(logs, format="worker-sft", where="run.turns > 99", dry_run=True)


# -- logs with trouble


@pytest.fixture
def copied(logs: Path, tmp_path: Path) -> Path:
    """The logs without their results, to be damaged."""
    folder = tmp_path / "copied"
    folder.mkdir()
    for name in ("supervisor.jsonl", "worker.jsonl"):
        (folder / name).write_bytes((logs / name).read_bytes())
    (folder / "contexts").symlink_to(logs / "contexts")
    return folder


def test_without_results_nothing_is_scored(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="7 runs: not scored"):
        export(copied, tmp_path / "out", format="worker-sft", select="correct")
    results = copied.parent.parent / "none.jsonl"
    with pytest.raises(InputError, match="no results file"):
        export(copied, tmp_path / "out", format="worker-sft", results=[results])


def test_a_results_file_is_named(logs: Path, copied: Path, tmp_path: Path) -> None:
    results = logs.with_suffix(".jsonl")
    made = export(
        copied, tmp_path / "out", format="worker-sft", select="correct", results=[results]
    )
    assert made.runs == 4


def test_scores_that_were_appended_decide(copied: Path, tmp_path: Path) -> None:
    labels = {"plain": "Yes.", "wrong": "no", "other": "yes", "linked": "never"}
    score(copied, "exact", labels=labels)
    score(copied, "contains", labels=labels)
    options: dict[str, Any] = {"format": "supervisor-sft", "select": "correct"}
    with pytest.raises(InputError, match="scores by contains, exact: say with --scorer"):
        export(copied, tmp_path / "none", **options)
    export(copied, tmp_path / "exact", scorer="exact", **options)
    export(copied, tmp_path / "contains", scorer="contains", **options)
    exact, contains = (rows_in(tmp_path / name) for name in ("exact", "contains"))
    assert {row["task"] for row in exact} == {"plain", "wrong"}
    assert {row["task"] for row in contains} == {"plain", "wrong", "other"}
    assert {row["score"] for row in exact} == {1.0}
    where = "score.exact < 1 and score.contains == 1"
    export(copied, tmp_path / "both", format="worker-sft", scorer="exact", where=where)
    assert {row["task"] for row in rows_in(tmp_path / "both")} == {"other"}
    with pytest.raises(InputError, match="a score by 'nope': there are contains, exact"):
        export(copied, tmp_path / "none", format="worker-sft", where="score.nope == 1")


def test_which_scorer_decides_is_asked_only_where_one_must(logs: Path, tmp_path: Path) -> None:
    """The results have scores by one, and another has scored one run."""
    folder = tmp_path / "two.logs"
    shutil.copytree(logs, folder)
    results = logs.with_suffix(".jsonl")
    run, *_ = read(folder).runs
    said = {"type": "score", "v": 2, "t": 2e9, "run": run, "scorer": "f1", "value": 0.5,
            "producer": {"kind": "scorer", "name": "score", "pid": 1}}  # fmt: skip
    with (folder / "supervisor.jsonl").open("a") as file:
        file.write(json.dumps(said) + "\n")
    options: dict[str, Any] = {"results": [results], "dry_run": True}
    made = export(folder, format="worker-sft", where="score.f1 == 0.5", **options)
    assert made.runs == 1
    assert [each for each in made.warnings if "no --scorer says which" in each]
    assert export(folder, format="supervisor-sft", **options).runs == 7
    for wants in (
        {"format": "worker-preferences"},
        {"format": "worker-sft", "select": "best"},
        {"format": "worker-sft", "where": "run.score == 1"},
    ):
        with pytest.raises(InputError, match="say with --scorer NAME"):
            export(folder, **options, **wants)  # type: ignore[arg-type]


def test_torn_and_wrong_lines_are_skipped_and_named(copied: Path, tmp_path: Path) -> None:
    worker = copied / "worker.jsonl"
    lines = worker.read_bytes().splitlines(keepends=True)
    worker.write_bytes(b"".join([*lines[:-1], b"not json\n", lines[-1][:40]]))
    made = export(copied, tmp_path / "out", format="worker-sft")
    assert made.skipped_lines == 2
    told = "2 lines of the logs can't be read (`distill doctor` names them)"
    assert told in made.warnings
    assert told in (tmp_path / "out/README.md").read_text("utf-8")
    assert made.rows["train"] == 16
    (source,) = manifest(tmp_path / "out")["inputs"]
    assert [each.partition(": ")[0] for each in source["skipped"]] == [
        f"worker.jsonl:{len(lines)}", f"worker.jsonl:{len(lines) + 1}",
    ]  # fmt: skip


class Twice(WorkerSft):
    """Reads the calls twice, and between them a run goes on."""

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        found = list(super().rows(material))
        for source in material.sources:
            for log in ("supervisor.jsonl", "worker.jsonl"):
                with (source.folder / log).open("ab") as file:
                    file.write((source.folder / log).read_bytes().replace(b'"id":"', b'"id":"9'))
        again = [each.row for each in super().rows(material) if isinstance(each, Made)]
        assert again == [each.row for each in found if isinstance(each, Made)]
        yield from found


def test_a_log_that_grows_is_read_as_far_as_it_was_there(copied: Path, tmp_path: Path) -> None:
    worker = copied / "worker.jsonl"
    worker.write_bytes(worker.read_bytes()[:-9])  # the last line is not whole yet
    size = worker.stat().st_size
    made = export(copied, tmp_path / "out", format=Twice())
    assert (made.rows["train"], made.skipped_lines) == (16, 1)
    assert len([told for told in made.warnings if "grew while it was read" in told]) == 2
    files = {each["file"]: each for each in manifest(tmp_path / "out")["inputs"][0]["files"]}
    assert files["worker.jsonl"]["bytes"] == size


def test_a_run_that_is_in_two_folders_counts_once(logs: Path, copied: Path, tmp_path: Path) -> None:
    made = export([logs, copied], tmp_path / "out", format="worker-sft")
    assert made.rows["train"] == 17
    assert made.dropped_runs == {"the same run in another folder": 7}


def test_runs_of_two_copies_are_each_taken_from_the_folder_that_was_named(tmp_path: Path) -> None:
    sub = Told("sub", parent=records.ParentCall("y", 1, 1, 0, ""))
    one = write(tmp_path / "one", Told("x"), Told("y"), sub)
    other = tmp_path / "other"
    shutil.copytree(one, other)
    named = sources([f"{one}#x", f"{other}#y"])
    for source in named:
        read_runs(source)
    graded, left_out = graded_runs(named, [])
    assert [(each.run.id, each.run.folder) for each in graded] == [
        ("x", one), ("y", other), ("sub", other),
    ]  # fmt: skip
    assert not left_out
    assert export([f"{one}#x", other], format=Answers(), dry_run=True).runs == 3


def test_hostile_names_stay_words_in_the_card(copied: Path, tmp_path: Path) -> None:
    log = copied / "supervisor.jsonl"
    name = r"`|\n# Owned\n\u001b[31m<script>"
    log.write_text(log.read_text().replace('"supervisor":"Boss"', f'"supervisor":"{name}"'))
    export(copied, tmp_path / "out", format="worker-sft")
    card = (tmp_path / "out/README.md").read_text("utf-8")
    assert "\x1b" not in card
    assert "\n# Owned" not in card


# -- the command


def test_the_command(logs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["export", str(logs), "-f", "worker-sft", "--select", "correct", "--dedup"]
    dry = CliRunner().invoke(cli, [*words, "--dry-run"], standalone_mode=False)
    assert dry.exception is None
    assert (dry.stdout, dry.return_value) == ("", 0)
    assert "Rows        train 7 (would be written)" in dry.stderr
    assert "3 dropped: not correct" in dry.stderr
    wet = CliRunner().invoke(cli, [*words, "-o", str(out)], standalone_mode=False)
    assert (wet.stdout, wet.return_value) == (f"{out}\n", 0)
    assert len(rows_in(out)) == 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-f", "nonsense"], "there is no format 'nonsense'; there are few-shot, worker-sft"),
        (["-f", "worker-sft"], "--out DIR"),
        (["-f", "worker-sft", "-o", "/proc/none"], "can't be made"),
        (["-f", "worker-sft", "--where", "run.color == 1", "--dry-run"], "run has no 'color'"),
        (["-f", "supervisor-sft", "--where", "call.attempt > 1", "--dry-run"], "run.…, turn.…"),
        (["-f", "worker-sft", "--rows", "3", "--dry-run"], "are for few-shot"),
        (["-f", "worker-sft", "--scorer", "f1", "--dry-run"], "no run has a score by 'f1'"),
    ],
)
def test_wrong_words(logs: Path, words: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, ["export", str(logs), *words], standalone_mode=False)
    assert done.exception is not None
    assert getattr(done.exception, "code", None) == 2
    assert said in done.stderr


def test_a_folder_without_logs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a log folder"):
        export(tmp_path, format="worker-sft", dry_run=True)
    with pytest.raises(InputError, match="nothing to export"):
        export([], format="worker-sft", dry_run=True)


def test_a_data_set_appears_at_once(logs: Path, tmp_path: Path) -> None:
    """Until all is written there is nothing under its name."""
    out, seen = tmp_path / "out", []
    rename = os.rename

    def watched(*args: Any, **kw: Any) -> None:
        seen.append(out.exists())
        rename(*args, **kw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", watched)
        export(logs, out, format="worker-sft")
    assert seen == [False]
    assert (out / "README.md").exists()
