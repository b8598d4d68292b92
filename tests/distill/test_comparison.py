"""Recorded runs are done again with versions of a worker, which are held side by side."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distill import ModelHandler, acompare, compare, evaluate, run, score
from distill.errors import InputError, ModelError
from distill.intervals import wilson
from distill.traces import read, records, validate
from distill.training.compare_command import exit_code
from distill.training.comparison import Compared, VersionFigures
from distill.training.comparison_table import as_object, said, table
from distill.training.versions import Version, version_from
from distill.worker_server.adapter_files import files_hash
from tests.adapter_folder import write_adapter
from tests.distill.commands import Command, command, command_here
from tests.distill.scripted import SMALL, Supervisor, Worker, cell
from tests.engine_stand_in.spec import MODEL, worker_spec
from tests.engine_stand_in.vllm.tokens import answer_to, render

NAMES = ("one", "two", "three", "four")
CODE = """\
said = worker(context + ' Is it so?')
if said == 'perhaps':
    said = worker('Say yes or no: ' + context)
FINAL(said)"""
"""Asks once, and once more where the first answer is no answer."""
SETTINGS = worker_spec("").env
STAND_IN: dict[str, Any] = {
    name: SETTINGS[name] for name in SETTINGS if name.startswith(("STAND_IN", "PYTHONPATH"))
}


class Boss(ModelHandler):
    """Writes the same code in each run."""

    model = "boss"

    def __init__(self, code: str = CODE) -> None:
        self._code = code

    def chat(self, messages: Any, **_: Any) -> Any:
        return Supervisor(cell(self._code)).chat(messages)

    def chat_batch(self, message_batches: Any, **kw: Any) -> list[Any]:
        return [self.chat(messages, **kw) for messages in message_batches]


def knowing(*names: str, else_says: str = "no") -> Worker:
    """A worker that says yes to these, and something else to the others."""
    return Worker(
        lambda prompt: "yes" if any(f"is {each}." in prompt for each in names) else else_says
    )


def recorded(folder: Path, names: Sequence[str] = NAMES, twice: str = "") -> Path:
    """Logs of runs with labels: the right answer to each question is yes."""
    tasks = [
        {"id": name, "query": "Is it so?", "context": f"It is {name}.", "label": "yes",
         "attempts": 1 + (name == twice)}
        for name in names
    ]  # fmt: skip
    results = folder / "tasks.jsonl"
    done = evaluate(tasks, Boss(), knowing(*names), results=results, limits=SMALL)
    assert done.summary.accuracy == 1.0
    return done.log_dir


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of five runs about four texts."""
    return recorded(tmp_path_factory.mktemp("recorded"), twice="two")


@pytest.fixture
def pair(logs: Path) -> list[str]:
    """Two of the runs, by name: of the first text and of the last."""
    known = {run.start.label: run.id for run in read(logs).runs.values() if run.start is not None}
    return [f"{logs}#{known[name]}" for name in (NAMES[0], NAMES[-1])]


def by_name(compared: Compared) -> dict[str, VersionFigures]:
    return {each.name: each for each in compared.versions}


def test_versions_side_by_side_joined_by_the_recorded_run(logs: Path, tmp_path: Path) -> None:
    base = knowing("one", else_says="perhaps")
    compared = compare(
        logs, {"base": base, "tuned": knowing("one", "two", "three")}, tmp_path, concurrency=2
    )
    found = by_name(compared)
    assert (compared.runs, compared.left_out) == (5, {})
    assert [each.standing.accuracy for each in found.values()] == [0.2, 0.8]
    (pair,) = compared.pairs
    figures = pair.figures
    assert (pair.first, pair.second) == ("tuned", "base")
    assert (figures.tasks, figures.difference) == (4, 0.5), "attempts at one task are one question"
    assert (figures.better, figures.worse, figures.equal, figures.p) == (2, 0, 2, 0.5)
    assert figures.interval[0] < 0.5 < figures.interval[1]
    assert found["base"].standing.interval == pytest.approx(wilson(0.2, 25 / 7))
    # Where its first answer was none, the code asked the base once more.
    originals = read(logs).runs
    said_perhaps = {id_ for id_, run in originals.items() if run.start and run.start.label != "one"}
    assert set(found["base"].other_way) == said_perhaps
    assert found["tuned"].other_way == ()
    assert [each.standing.worker_calls for each in found.values()] == [5 + 4, 5]
    assert found["base"].standing.worker_usage.input_tokens == 7 * 9
    for each in found.values():
        assert each.standing.supervisor_usage == records.TokenUsage(0, 0)
        assert set(each.results) == set(originals)
        assert validate(each.folder)[1] == []
        for of, result in each.results.items():
            replay = read(each.folder).runs[result.run_id or ""]
            assert replay.start is not None
            assert replay.start.options["replay_of"]["run"] == of
            assert replay.start.label == originals[of].start.label  # type: ignore[union-attr]
    text = table(compared)
    assert "tuned against base, 4 tasks: +0.500" in text
    assert text.splitlines()[2].split()[:2] == ["Version", "Answered"]
    assert json.loads(as_object(compared))["pairs"][0]["figures"]["difference"] == 0.5
    again = score(found["tuned"].folder).comparisons["exact"]
    assert again.standings[0].accuracy == 0.8, "the scores are in the logs"


def test_what_is_done_is_not_done_again(pair: list[str], tmp_path: Path) -> None:
    def versions() -> dict[str, Worker]:
        return {"base": knowing("one"), "tuned": knowing("four")}

    first = versions()
    one = compare(pair, first, tmp_path)
    assert [len(each.prompts) for each in first.values()] == [2, 2]
    second = versions()
    two = compare(pair, second, tmp_path)
    assert [each.prompts for each in second.values()] == [[], []]
    assert as_object(one) == as_object(two)
    cut_off(tmp_path / "tuned")
    third = {**versions(), "more": knowing("three")}
    three = compare(pair, third, tmp_path)
    # The replay that was cut off goes on: its call is in the log already.
    assert [len(each.prompts) for each in third.values()] == [0, 0, 2]
    assert len(read(tmp_path / "tuned").runs) == 2
    assert by_name(three)["tuned"].standing.accuracy == 0.5
    assert len(three.pairs) == 2


def cut_off(folder: Path) -> None:
    """Leave of the first replay what a driver leaves that is killed once its call is answered."""
    log = folder / records.SUPERVISOR_LOG
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    ended = next(line["run"] for line in lines if line["type"] == "run_end")
    later = ("run_end", "score", "final", "cell")
    kept = [line for line in lines if line["run"] != ended or line["type"] not in later]
    log.write_text("".join(json.dumps(line) + "\n" for line in kept))


def test_runs_that_can_not_be_done_again_are_named(tmp_path: Path) -> None:
    logs = recorded(tmp_path, NAMES[:1])
    told: dict[str, Any] = {"limits": SMALL, "log_dir": logs}
    run("q", "text", Boss(), Worker(), redact=["email"], **told)
    with pytest.raises(ModelError):
        run("q", "other", Supervisor(ModelError("down")), Worker(), **told)
    run("q", "torn", Boss(), Worker(), **told)
    whole, redacted, failed, torn = read(logs).runs.values()
    log = logs / records.SUPERVISOR_LOG
    kept = [
        line
        for line in log.read_text().splitlines(keepends=True)
        if f'"run":"{torn.id}"' not in line or '"role":"assistant"' not in line
    ]
    log.write_text("".join(kept))
    compared = compare(logs, {"base": knowing("one")}, tmp_path / "out")
    assert list(compared.versions[0].results) == [whole.id]
    why = {name.rpartition("#")[2]: told for name, told in compared.left_out.items()}
    assert set(why) == {redacted.id, failed.id, torn.id}
    assert "was redacted (email)" in why[redacted.id]
    assert why[failed.id] == "it has failed"
    assert why[torn.id].startswith("its log lacks what its supervisor said")
    assert any(f"#{redacted.id}: run" in line for line in said(compared))
    with pytest.raises(InputError, match="no run there can be done again"):
        compare(f"{logs}#{redacted.id}", {"base": Worker()}, tmp_path / "out")


def test_a_replay_that_fails_stops_no_other(pair: list[str], tmp_path: Path) -> None:
    class Down(Worker):
        def prepare(self) -> None:
            raise ModelError("it is down")

    compared = compare(pair, {"base": knowing("one"), "down": Down()}, tmp_path)
    base, down = compared.versions
    assert (base.standing.accuracy, base.unfinished) == (0.5, {})
    assert down.standing.accuracy is None
    assert list(down.unfinished.values()) == ["it is down"] * 2
    assert (compared.pairs, exit_code(compared)) == ([], 4)
    assert sum(line.startswith("down: not done: run ") for line in said(compared)) == 2
    with pytest.raises(ModelError, match="no replay has come to its end: it is down"):
        compare(pair, {"down": Down()}, tmp_path)


@pytest.mark.parametrize(
    ("versions", "options", "why"),
    [
        ({}, {}, "name the versions"),
        ({"../up": Worker()}, {}, "a version's name is a folder's"),
        ({"a": None}, {}, "needs an engine, or is a ModelHandler"),
        ({"a": Worker()}, {"scorer": "nonsense"}, "nonsense"),
        ({"a": Worker()}, {"labels": {"x": "y"}, "concurrency": 0}, "concurrency is 1 to"),
    ],
)
def test_what_can_not_be_compared(
    logs: Path, tmp_path: Path, versions: Any, options: Any, why: str
) -> None:
    with pytest.raises(InputError, match=why):
        compare(logs, versions, tmp_path / "out", **options)
    assert not list((tmp_path / "out").glob("*/*"))


def test_without_labels_it_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    run("q", "text", Boss(), Worker(), limits=SMALL, log_dir=tmp_path / "log", label="t")
    worker = Worker()
    with pytest.raises(InputError, match="no run has one: give --labels"):
        compare(tmp_path / "log", {"base": worker}, tmp_path / "out")
    assert worker.prompts == []
    labels = {"t": "<text Is it so?>"}
    told = asyncio.run(acompare(tmp_path / "log", {"a": worker}, tmp_path / "out", labels=labels))
    assert told.versions[0].standing.accuracy == 1.0


# -- by the command line, on real worker servers that do no work


def answered(folder: Path) -> set[tuple[str | None, str]]:
    """Which adapters have answered in this log folder."""
    calls = [call for each in read(folder).runs.values() for call in each.calls]
    assert calls
    assert {call.error for call in calls} == {None}
    return {(call.model.adapter, call.model.adapter_hash) for call in calls}


def test_adapters_by_the_command_line(pair: list[str], short: Path) -> None:
    one = write_adapter(short / "step-1", 1.0)
    two = write_adapter(short / "step-2", 2.0)
    hashes = [files_hash(each) for each in (one, two)]
    asked = render([{"role": "user", "content": "It is one. Is it so?"}])
    (short / "labels.jsonl").write_text(json.dumps({"id": "one", "label": answer_to(asked)}))
    words = ("train", "compare", pair[0], "-o", str(short / "ab"))
    options = ("--worker", str(MODEL), "--cores", "0", "--labels", str(short / "labels.jsonl"))
    versions = ("--version", "base", "--version", str(one))
    done = command(short, *words, *options, *versions, **STAND_IN)
    assert done.code == 0, done.err
    base, step = (done.out.splitlines()[place].split() for place in (3, 4))
    assert base[0] == "base"
    assert "1.000" in base
    assert step[0] == "step-1"
    assert "0.000" in step
    assert "step-1 against base, 1 task: -1.000" in done.out
    assert answered(short / "ab" / "base") == {(None, "")}
    assert answered(short / "ab" / "step-1") == {(f"step-1-{hashes[0][:12]}", hashes[0])}
    # All is there: no engine is started, and the other adapter is not that one.
    again = command_here(short, *words, *options, *versions, "--json", **STAND_IN)
    assert [each["name"] for each in json.loads(again.out)["versions"]] == ["base", "step-1"]
    other = command_here(
        short, *words, *options, *versions[:2], "--version", f"step-1={two}", **STAND_IN
    )
    assert other.code == 2
    assert "has answers of the adapter" in other.err
    model = shutil.copytree(MODEL, short / "model")
    with (model / "model.safetensors").open("ab") as file:
        file.write(b" ")
    moved = command_here(short, *words, *options, "--worker", str(model), *versions, **STAND_IN)
    assert moved.code == 2
    assert "has answers of the model" in moved.err
    up = Command(short, "up", *options[:4], "--adapter", f"first={two}", **STAND_IN)
    try:
        up.wait_for("The engine is up")
        # The engine has an adapter of this name: it is not taken from those who ask it meanwhile.
        more: Sequence[str] = ("--version", f"first={one}", "--version", "again=base")
        done = Command(short, *words, *options[4:], *more, "--connect").done()
        assert done.code == 0, done.err
        assert answered(short / "ab" / "first") == {(f"first-{hashes[0][:12]}", hashes[0])}
        (short / "ab" / "first").rename(short / "other")
        more = ("--version", f"step-2={two}", "--version", "first", "--version", "bare=base")
        done = Command(short, *words, *options[4:], *more, "--connect").done()
        assert done.code == 0, done.err
    finally:
        up.end()
    assert answered(short / "ab" / "bare") == {(None, "")}
    assert answered(short / "ab" / "step-2") == {(f"step-2-{hashes[1][:12]}", hashes[1])}
    assert answered(short / "ab" / "first") == {("first", hashes[1])}
    # What an engine with another model has answered is not held against this one's.
    log = short / "ab" / "bare" / records.WORKER_LOG
    (known,) = {
        call.model.weights_hash for run in read(log.parent).runs.values() for call in run.calls
    }
    log.write_text(log.read_text().replace(known, "0" * 64))
    mixed = command_here(short, *words, *options[4:], *more, "--connect", "ipc:///nobody")
    assert mixed.code == 2
    assert "versions of several models" in mixed.err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--version", "tuned"), "no adapter is called so"),
        (("--version", "base", "--version", "base"), "base is named twice"),
        (("--version", "base"), "name two versions or more"),
        (("--version", "base", "--version", "x=nowhere"), "is no LoRA adapter"),
        (("--version", "x=model", "--connect", "ipc:///x"), "is a model of its own"),
        (("--version", "base", "--connect", "ipc:///x", "--cores", "0"), "--cores: of an engine"),
        (
            ("--version", "a/x", "--worker-url", "http://127.0.0.1:9", "--worker", "x"),
            "folders are not for --worker-url",
        ),
    ],
)
def test_what_is_refused_at_once(logs: Path, short: Path, words: Sequence[str], why: str) -> None:
    (short / "model").symlink_to(MODEL)
    there = [word.replace("=model", f"={short / 'model'}") for word in words]
    done = command_here(short, "train", "compare", str(logs), "-o", str(short / "ab"), *there)
    assert done.code == 2, done.err
    assert why in done.err


def test_versions_as_they_are_named(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "step-9", 1.0)
    assert version_from("base") == Version("base")
    assert version_from("small=base") == Version("small")
    assert version_from("tuned") == Version("tuned", "tuned")
    assert version_from(str(adapter)) == Version("step-9", adapter)
    assert version_from(f"nine={adapter}") == Version("nine", adapter)
    assert version_from(f"full={MODEL}") == Version("full", model=MODEL)
    for word in ("=", "a b", "..=x", "a/b=base"):
        with pytest.raises(InputError):
            version_from(word)
