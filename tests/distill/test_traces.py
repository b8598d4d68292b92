"""Logs of real runs: the schema, the reader, and a validator that names what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distill
from distill import RunResult
from distill.errors import InputError, ModelError
from distill.traces import Run, read, records, validate
from tests.distill.scripted import Supervisor, Worker, cell

Ask = Callable[..., RunResult]
LOGS = ("supervisor.jsonl", "worker.jsonl")


@pytest.fixture
def rich(ask: Ask, log: Path) -> Path:
    """The log of a run that does everything."""

    def fickle(prompt: str) -> Any:
        if "bad" in prompt:
            raise ModelError("refused")
        return f"<{prompt}>"

    context = "The quick brown fox jumps over the lazy dog, again and again and again. " * 20
    supervisor = Supervisor(
        "no code",
        cell("print(worker(context[100:400]), lookup('k', n=2))\nworker_batch(['a', 'b'])"),
        cell("1/0"),
        cell("try:\n    worker('bad')\nexcept WorkerError as error: print(error)"),
        cell("import os; os._exit(1)"),
        cell("FINAL({'x': [1, None]})"),
    )
    primitives = {"lookup": lambda key, n=1: {"key": [key] * n}}
    ask(supervisor=supervisor, worker=Worker(fickle), context=context, primitives=primitives)
    return log


def test_every_line_of_a_real_log_is_valid(rich: Path) -> None:
    kinds = set()
    for name in LOGS:
        schema = records.json_schema(name)
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema)
        for line in (rich / name).read_text("utf-8").splitlines():
            validator.validate(json.loads(line))
            kinds.add(json.loads(line)["type"])
    assert kinds == {
        "run_start", "process", "event", "message", "turn", "cell", "primitive", "batch", "final",
        "run_end", "call",
    }  # fmt: skip


def bare(schema: Any) -> Any:
    """A schema without descriptions, whose indentation is the Python version's own."""
    if isinstance(schema, dict):
        return {key: bare(value) for key, value in schema.items() if key != "description"}
    return [bare(item) for item in schema] if isinstance(schema, list | tuple) else schema


def test_the_shipped_schemas_are_those_of_the_code() -> None:
    folder = Path(distill.__file__).parent / "schema"
    shipped = [bare(json.loads(path.read_text())) for path in folder.glob("*.json")]
    for name in LOGS:
        assert bare(records.json_schema(name)) in shipped


def test_a_log_rebuilds_the_run(rich: Path) -> None:
    assert validate(rich)[1] == []
    (run,) = read(rich).runs.values()
    assert run.answer == {"x": [1, None]}
    assert [each.status for each in run.cells] == ["ok", "error", "ok", "lost", "final"]
    assert {process.producer.kind for process in run.processes} == {"driver", "launcher", "sandbox"}
    (primitive,) = run.primitives
    assert (primitive.args, primitive.kwargs, primitive.value) == (
        ["k"], {"n": 2}, {"key": ["k", "k"]},
    )  # fmt: skip
    assert [m.index for m in run.messages] == list(range(len(run.messages)))
    assert len({m.content for m in run.messages if m.role == "assistant"}) == 6
    passage = next(call for call in run.calls if call.spans)
    span = passage.spans[0]
    assert passage.context_sha256 == run.start.context.sha256  # type: ignore[union-attr]
    assert run.context()[span.start : span.end] in passage.prompt
    (failed,) = [call for call in run.calls if call.response is None]
    assert failed.error is not None
    assert "refused" in failed.error.detail
    assert [(b.items, b.failed) for b in run.batches] == [(1, 0), (2, 0), (1, 1)]
    alone = json.loads((rich / "worker.jsonl").read_text().splitlines()[-1])
    assert {"prompt", "response", "model", "sampling", "usage", "finish_reason"} <= set(alone)


def drop(kind: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda lines: [line for line in lines if line["type"] != kind]


DAMAGES: dict[str, tuple[str, Any, str]] = {
    "no start": ("supervisor.jsonl", drop("run_start"), "no run_start"),
    "no end": ("supervisor.jsonl", drop("run_end"), "no run_end"),
    "no cells": ("supervisor.jsonl", drop("cell"), "no cell"),
    "no batches": ("supervisor.jsonl", drop("batch"), "no batch"),
    "no turns": ("supervisor.jsonl", drop("turn"), "no turn"),
    "doubled calls": ("worker.jsonl", lambda lines: lines * 2, "twice"),
    "a lost message": (
        "supervisor.jsonl",
        lambda lines: [x for x in lines if x.get("index") != 1],
        "messages",
    ),
    "a newer version": (
        "supervisor.jsonl", lambda lines: [{**lines[0], "v": 99}, *lines[1:]], "newer",
    ),
    "a wrong type": (
        "worker.jsonl", lambda lines: [{**lines[0], "t": "noon"}, *lines[1:]], "worker.jsonl:1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_wrong_is_named(rich: Path, tmp_path: Path, kind: str) -> None:
    name, damage, said = DAMAGES[kind]
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "contexts").symlink_to(rich / "contexts")
    for log in LOGS:
        lines = [json.loads(line) for line in (rich / log).read_text().splitlines()]
        lines = damage(lines) if log == name else lines
        (copy / log).write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, problems = validate(copy)
    assert any(said in f"{p.where} {p.what}" for p in problems), problems


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60).filter(lambda line: b"\n" not in line), max_size=8))
def test_any_bytes_are_skipped_with_their_line(lines: list[bytes]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        Path(folder, "supervisor.jsonl").write_bytes(b"\n".join(lines))
        trace, problems = validate(folder)
        assert [s.line for s in trace.skipped] == [n for n, x in enumerate(lines, 1) if x.strip()]
        assert len(problems) == len(trace.skipped)


@pytest.mark.parametrize(
    "line", [b"[" * 100_000, b'{"a":' * 100_000, b'"' + b"x" * 1_000_000, b"\xff"]
)
def test_bombs_are_skipped(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "supervisor.jsonl").write_bytes(line + b"\n")
    assert len(read(tmp_path).skipped) == 1


def test_a_folder_without_logs(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing", Path(__file__)):
        with pytest.raises(InputError, match="not a log folder"):
            read(path)


def test_a_context_that_is_gone(rich: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for log in LOGS:
        (copy / log).write_bytes((rich / log).read_bytes())
    trace, problems = validate(copy)
    assert any("can't be read" in problem.what for problem in problems)
    run: Run = next(iter(trace.runs.values()))
    with pytest.raises(InputError):
        run.context()
