"""The parts of ``distill export``: expressions, shortened conversations, sub-runs, overlaps."""

import contextlib
import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill import LMResponse, RunResult, export, replay, run, score
from distill.errors import InputError, ModelError
from distill.exports.duplicates import Seen
from distill.exports.overlap import Texts
from distill.exports.selection import Select
from distill.exports.where import condition
from distill.exports.writing import FileType
from distill.supervisor.journal import Journal
from distill.traces import read, records, rows
from tests.distill.exported import text
from tests.distill.recordings import asked_of
from tests.distill.scripted import SMALL, Messages, Supervisor, Worker, cell, endpoint, run_bounded
from tests.distill.test_compaction import Boss
from tests.distill.written_logs import DRIVER, Told, write
from tests.view.logs import TEXT, Log, logs_runs

Ask = Callable[..., RunResult]


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text("utf-8").splitlines()]


# -- expressions


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a cell that raised and calls of two kinds."""
    log = tmp_path_factory.mktemp("two") / "log"
    replies = (
        cell("worker_batch(['a', 'bb'], temperature=0.5)\n1 / 0"),
        cell("FINAL(worker('ccc'))"),
    )
    run_bounded(
        lambda: run(
            "What?", "some text", Supervisor(*replies), Worker(), log_dir=log, label="two",
            limits=SMALL,
        )
    )  # fmt: skip
    return log


HOLDS = {
    "call.prompt == 'a'": ["a"],
    "len(call.prompt) > 1": ["bb", "ccc"],
    "call.prompt in ('a', 'ccc')": ["a", "ccc"],
    "not call.prompt in ['a', 'ccc'] and call.prompt not in 'xx'": ["bb"],
    "1 < len(call.prompt) <= 2": ["bb"],
    "call.sampling['temperature'] == 0.5": ["a", "bb"],
    "call.sampling['temperature'] is None": ["ccc"],
    "call.sampling['temperature'] < 9": ["a", "bb"],  # what has no value is less than nothing
    "cell.status == 'error'": ["a", "bb"],
    "cell.error_kind == 'ZeroDivisionError' or turn.turn == 2": ["a", "bb", "ccc"],
    "turn.failed_cells * 2 - 1 >= 1": ["a", "bb"],
    "matches(lower(call.prompt), '^b+$')": ["bb"],
    "run.label == 'two' and run.score is None": ["a", "bb", "ccc"],
    "call.output_tokens > 99": InputError,  # no row is left
    "score.exact == 1": InputError,  # nobody gave scores
    "score['judge:a model'] is None": InputError,
    "call.output_tokens / 0 == 1": InputError,
    "call.prompt < 3": InputError,
    "call.prompt + 1 == 2": InputError,
    "matches(call.prompt, call.item)": InputError,
    "strip(' bb\\n') == call.prompt and strip(run.task) == 'two'": ["bb"],
    "call.in_answer": ["ccc"],
}


@pytest.mark.parametrize("where", HOLDS)
def test_expressions(two: Path, tmp_path: Path, where: str) -> None:
    if HOLDS[where] is InputError:
        said = "can't be said of run|no run has a score by|no row is left"
        with pytest.raises(InputError, match=said):
            export(two, format="worker-sft", where=where, dry_run=True)
        return
    export(two, tmp_path / "out", format="worker-sft", where=where)
    assert [row["prompt"][0]["content"] for row in rows_in(tmp_path / "out")] == HOLDS[where]


REFUSED = """
__import__('os')
run.__class__
run.id.__class__
run['id']
call.prompt.upper()
(lambda: 1)()
[c for c in 'abc']
f'{run.id}'
9 ** 9
1 if run.id else 2
(x := 1)
open('/etc/passwd')
len()
len(run.id, run.id)
lower(text=run.id)
b'bytes' == run.id
run
score
...
print
~1
1 @ 2
""".strip().splitlines()


DEEP = "not " * 900 + "run.id"


@pytest.mark.parametrize("words", [*REFUSED, "", "run.", "(" * 500, "not " * 5000, DEEP])
def test_what_is_no_expression_is_refused(words: str) -> None:
    with pytest.raises(InputError, match="--where"):
        condition(words)


@settings(max_examples=60)
@given(st.text(max_size=60) | st.lists(st.sampled_from("run . id ( ) == 'a' and score 1 - [ ]".split())).map(" ".join))  # fmt: skip  # noqa: E501
def test_any_text_is_understood_or_refused(words: str) -> None:
    try:
        understood = condition(words)
    except InputError:
        return
    assert understood.level in ("run", "turn", "cell", "call")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("matches(call.prompt, '(')", r"'\(' is no regular expression of RE2: missing \)"),
        ("matches(call.prompt, 3)", "a regular expression is a text"),
        ("run.turns = 3", "no expression: write == to compare$"),
        ("run.turns == == 3", "no expression: .*, at character"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_read(
    capfd: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    with pytest.raises(InputError, match=said) as refused:
        condition(words)
    assert "<unknown>" not in str(refused.value)
    assert capfd.readouterr().err == ""  # RE2 writes there, if it is let


def test_a_wrong_name_lists_the_right_ones() -> None:
    with pytest.raises(InputError, match=r"run has no 'colour', but answer, .*status"):
        condition("run.colour == 1")


# -- calls


def test_calls_that_teach_nothing_are_dropped_with_why(ask: Ask, log: Path, tmp_path: Path) -> None:
    def fickle(prompt: str) -> Any:
        if prompt == "bad":
            raise ModelError("refused")
        return {"empty": " \n"}.get(prompt, f"<{prompt}>")

    class Cut(Worker):
        def chat(self, messages: Messages, **kw: Any) -> LMResponse:
            reply = super().chat(messages, **kw)
            is_long = messages[-1]["content"] == "long"
            return replace(reply, finish_reason="length") if is_long else reply

    ask(
        cell("worker_batch(['empty', 'long', 'good'])\nworker('bad')"),
        cell("worker('once')\nimport os\nos._exit(1)"),
        cell("worker('once')"),
        cell("FINAL([worker('same', temperature=0) for _ in range(3)])"),
        worker=Cut(fickle), answer_cache="run",
    )  # fmt: skip
    made = export(log, tmp_path / "out", format="worker-sft")
    assert made.dropped_rows == {
        "the call failed": 1,
        "the answer is empty": 1,
        "the answer was cut off (finish_reason length)": 1,
        "reused: the answer stands in an earlier line": 1,
    }
    asked = [row["prompt"][0]["content"] for row in rows_in(tmp_path / "out")]
    # What the cache knew is an answer as well; --dedup leaves one.
    assert asked == ["good", "once", "same", "same", "same"]
    dedup = export(
        log, format="worker-sft", dedup=True, where="call.source != 'reused'", dry_run=True
    )
    assert dedup.rows == {"train": 3}


@pytest.mark.parametrize("kind", ["worker-sft", pytest.param("few-shot", marks=pytest.mark.slow)])
def test_many_calls_take_little_memory(many: Path, tmp_path: Path, kind: str) -> None:
    tracemalloc.start()
    try:
        made = export(many, tmp_path / "out", format=kind, dedup=True, where="call.item >= 0")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made.rows["train"] + made.dropped_rows.total() == 3000
    assert peak_bytes < (many / "worker.jsonl").stat().st_size / 2


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of a run of 3,000 calls: 6 MB."""
    folder = tmp_path_factory.mktemp("many") / "log"
    logs_runs().write_run(folder, 3000)
    return folder


def asked(run: str, number: int) -> records.Call:
    """A call about a passage."""
    passage = f"{number:03} " * 12
    return records.Call(
        t=0.0, run=run, producer=DRIVER, id=f"{run}.{number}", turn=1, cell=1, call=1, item=number,
        function="worker", attempt=1, prompt=passage, response=f"no {number}", finish_reason="stop",
        usage=records.TokenUsage(1, 1), sampling={}, model=records.Model("tiny"),
        messages=({"role": "user", "content": passage},),
        spans=(records.Span(0, len(passage), 0),),
    )  # fmt: skip


def test_a_text_with_most_of_the_calls_leaves_room_for_others(tmp_path: Path) -> None:
    """Of 600 calls about one text and 2 about another, both of those are among four."""
    folder = write(tmp_path / "log", *(Told(name, text=name, model=None) for name in ("r1", "r2")))
    with contextlib.closing(Journal(folder)) as journal:
        journal.worker(
            asked("r2" if number in (100, 500) else "r1", number) for number in range(602)
        )
    for seed in range(3):
        out = tmp_path / str(seed)
        made = export(folder, out, format="few-shot", rows=4, seed=seed)
        assert sorted(row["run"] for row in rows_in(out)) == ["r1", "r1", "r2", "r2"]
        assert made.dropped_rows == {"not picked: there are enough": 598}


def test_a_demonstration_shows_one_passage(tmp_path: Path) -> None:
    one, other = TEXT[0:400], TEXT[60000:60300]
    log = Log(tmp_path / "log")
    log.begin()
    log.turn(cell("x"))
    log.calls([(f"Which is older?\n{one}\nor\n{other}", "the first"), (f"{one}\n{one}", "a")])
    log.cell("x")
    log.end("a")
    log.close()
    made = export(tmp_path / "log", tmp_path / "out", format="few-shot")
    (row,) = rows_in(tmp_path / "out")
    assert row["instruction"] == "{chunk}\n{chunk}"
    assert made.dropped_rows == {"several passages of the text stand in the prompt": 1}


@pytest.mark.parametrize("as_", ["jsonl", "parquet"])
def test_a_number_that_no_column_holds(tmp_path: Path, as_: FileType) -> None:
    log = write(tmp_path / "log", Told("x"), Told("y"))
    calls = [json.loads(line) for line in (log / "worker.jsonl").read_text().splitlines()]
    for call, token in zip(calls, (5, 2**70), strict=True):
        call |= {"prompt_token_ids": [1], "token_ids": [token]}
    (log / "worker.jsonl").write_text("".join(json.dumps(call) + "\n" for call in calls))
    if as_ == "jsonl":
        assert export(log, tmp_path / "out", format="token-sft", as_=as_).rows == {"train": 2}
        return
    with pytest.raises(InputError, match="Parquet can't hold the input_ids of a row") as told:
        export(log, tmp_path / "out", format="token-sft", as_=as_)
    assert "leave out --as parquet" in str(told.value)
    assert not (tmp_path / "out").exists()


def test_what_was_recorded_is_no_option_of_sampling(tmp_path: Path) -> None:
    folder = write(tmp_path / "log", Told("r1", model=None))
    options = {"temperature": 0.5, "record": "ids"}
    with contextlib.closing(Journal(folder)) as journal:
        journal.worker([msgspec.structs.replace(asked("r1", 1), sampling=options)])
    export(folder, tmp_path / "out", format="prompts")
    (prompt,) = rows_in(tmp_path / "out")
    (call,) = rows(folder, "calls")
    assert json.loads(prompt["sampling"]) == call["sampling"] == {"temperature": 0.5}


# -- conversations


def test_a_shortened_conversation_is_what_was_sent(log: Path, tmp_path: Path) -> None:
    boss = Boss(turns=14)
    with endpoint(boss) as server:
        run_bounded(
            lambda: run(
                "What?", "some text", asked_of(server.url), Worker(), log_dir=log,
                max_iterations=20, limits=SMALL,
            )
        )  # fmt: skip
    (told,) = read(log).runs.values()
    assert told.compactions
    export(log, tmp_path / "turns", format="supervisor-turns")
    turns = rows_in(tmp_path / "turns")
    assert [row["prompt"] for row in turns] == [request["messages"] for request in boss.answered]
    replies = [told.messages[turn.reply_index].content for turn in told.turns]
    assert [row["completion"][0]["content"] for row in turns] == replies
    export(log, tmp_path / "whole", format="supervisor-sft")
    rows = rows_in(tmp_path / "whole")
    assert len(rows) == len(told.compactions) + 1
    learnt = [m["content"] for row in rows for m in row["messages"] if m["weight"]]
    assert learnt == replies  # each once


def test_sub_runs_go_with_the_run_that_asked(tmp_path: Path) -> None:
    log, asks = tmp_path / "log", records.ParentCall("r1", 1, 1, 0, "0")
    write(
        log,
        Told("r1", task="top", model=None),
        Told("r2", task=None, text="a part of it", model=None, parent=asks),
    )
    with contextlib.closing(Journal(log)) as journal:
        journal.worker([asked("r1", 0), asked("r2", 1)])
    top, sub = sorted(read(log).runs.values(), key=lambda run: bool(run.start and run.start.parent))
    scored = {
        "type": "score", "v": 2, "t": 2e9, "run": top.id, "scorer": "exact", "value": 1.0,
        "producer": {"kind": "scorer", "name": "score", "pid": 1},
    }  # fmt: skip
    with (log / "supervisor.jsonl").open("a") as file:
        file.writelines(json.dumps({**scored, "value": value}) + "\n" for value in (0.0, 1.0))
    export(f"{log}#{top.id}", tmp_path / "out", format="worker-sft", select="correct")
    first, row = rows_in(tmp_path / "out")
    assert (row["run"], row["task"], row["score"]) == (sub.id, "top", 1.0)
    assert row["document"] != first["document"] == top.start.context.sha256  # type: ignore[union-attr]
    split = {"train": 0.5, "test": 0.5}
    for seed in range(6):
        made = export(log, format="worker-sft", split=split, seed=seed, dry_run=True)
        assert sorted(made.rows.values()) == [0, 2]
    with (log / "supervisor.jsonl").open("a") as file:
        file.write(json.dumps({**scored, "scorer": "f1", "value": 0.4}) + "\n")
    with pytest.raises(InputError, match="scores by exact, f1: say with --scorer"):
        export(log, format="worker-sft", select="correct", dry_run=True)
    made = export(log, format="worker-sft", scorer="f1", select="correct", correct_from=0.4,
                  dry_run=True)  # fmt: skip
    assert made.rows == {"train": 2}


def test_a_replay_does_not_stand_in_for_its_run(log: Path) -> None:
    def recorded() -> None:
        boss = Supervisor(cell("FINAL(worker('what?'))"))
        run("What?", "some text", boss, Worker(), log_dir=log, label="a", limits=SMALL)
        replay(log, Worker(), log_dir=log, label="a")

    run_bounded(recorded)
    _, again = read(log).runs
    score(log, "exact", labels={"a": "no matter"})
    selects: tuple[Select, ...] = ("best", "shortest")
    for select in selects:
        made = export(log, format="supervisor-sft", select=select, correct_from=0, dry_run=True)
        assert made.rows == {"train": 1}
        assert made.dropped_runs == {"a replay: the run that it does again counts": 1}
        alone = export(
            f"{log}#{again}", format="worker-sft", select=select, correct_from=0, dry_run=True
        )
        assert alone.rows == {"train": 1}  # there is no other


# -- texts alike


@given(st.text(max_size=40), st.text(max_size=40))
def test_duplicates(one: str, other: str) -> None:
    seen = Seen()
    assert seen.check((one, other)) is None
    assert seen.check((one, other)) == "exact"
    assert seen.check((f" {one}\n", f"{other}!")) == "near"
    assert seen.check((one, other, "more")) is None


def test_near_duplicates_differ_in_form_only() -> None:
    seen = Seen()
    assert seen.check(("The fee is 5,000.",)) is None
    assert seen.check(("the FEE  is 5 000",)) == "near"
    assert seen.check(("the fee is 50 00",)) is None
    assert seen.check(("the fees is 5000",)) is None


def test_a_passage_that_is_shared_is_noticed() -> None:
    mine, foreign = text(1, 3000), text(2, 3000)
    known = Texts([mine, "a short one"])
    words = mine.split()
    for place in range(0, 2800, 100):
        passage = " ".join(words[place : place + 150])
        assert known.share(passage)
        assert known.share(f"Before. {passage.upper()}!\n and after")
        assert not known.share(" ".join(foreign.split()[place : place + 150]))
    for chars in (40, 60, 120, 300):
        for place in range(0, len(mine) - chars, 61):  # cut in the middle of words
            assert known.share(mine[place : place + chars])
            assert not known.share(foreign[place : place + chars])
    assert known.share("A short\n one.")
    assert not known.share("a shorter one")
    assert not Texts([]).share(mine)
