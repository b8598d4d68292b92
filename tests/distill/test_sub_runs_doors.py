"""Sub-runs and the rlm dialect by the doors that people use: the command line, and an engine."""

from pathlib import Path
from typing import Any

import pytest

from distill.engine import Engine
from distill.traces import read, validate
from tests.distill.commands import QUESTION, TEXT, command, engine
from tests.distill.scripted import Reply, cell, endpoint, prompt_of

RLM = """\
I look at it first.
```repl
print(len(context), context[:40])
found = rlm_query("Which giant? " + context)
```"""
BELOW = """\
```repl
answer["content"] = llm_query("Passage: " + context)
answer["ready"] = True
```"""


def reads(request: dict[str, Any]) -> str:
    """The worker."""
    return "Goliath" if "Goliath" in prompt_of(request) else "the sea"


def test_an_rlm_from_the_command_line(short: Path) -> None:
    (short / "text.txt").write_text(TEXT)

    def boss(request: dict[str, Any]) -> str:
        messages = request["messages"]
        if "Do what the prompt in `context` asks." in messages[1]["content"]:
            return BELOW
        return "FINAL_VAR(found)" if messages[-1]["content"] == "Turn 2/15:" else RLM

    with endpoint(boss) as supervisor, endpoint(reads) as worker:
        done = command(
            short, "up", "-c", str(short / "text.txt"), "-q", QUESTION, "--dialect", "rlm",
            "--supervisor", "scripted", "--base-url", supervisor.url, "--log-dir",
            str(short / "log"), "--worker-url", worker.url, "--worker", "scripted",
        )  # fmt: skip
    assert (done.code, done.out) == (0, "Goliath\n"), done.err
    assert "2 turns and 1 sub-run," in done.err
    trace, problems = validate(short / "log")
    assert problems == []
    assert [len(each.sub_runs) for each in trace.runs.values()] == [1, 0]
    again = command(short, "up", "--supervisor", f"replay:{short / 'log'}")
    assert (again.code, again.out) == (0, "Goliath\n"), again.err


@pytest.mark.slow
def test_another_model_at_the_same_endpoint_may_write_the_code(short: Path) -> None:
    (short / "text.txt").write_text(TEXT)
    replies = [cell("x = supervisor('Which?', 'a part')"), cell("FINAL(context)"), cell("FINAL(x)")]
    models = Reply({"object": "list", "data": [{"id": name} for name in ("scripted", "other")]})
    with endpoint(lambda request: replies.pop(0), models) as boss, endpoint(reads) as worker:
        done = command(
            short, "up", "-c", str(short / "text.txt"), "-q", QUESTION, "--primitive", "supervisor",
            "--supervisor", "scripted", "--sub-supervisor", "other", "--base-url", boss.url,
            "--worker-url", worker.url, "--worker", "scripted",
        )  # fmt: skip
    assert (done.code, done.out) == (0, "a part\n"), done.err
    assert [request["model"] for request in boss.requests] == ["scripted", "other", "scripted"]


def test_sub_runs_of_an_engine_in_python(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(short))
    replies = [cell("x = supervisor('Which giant did David slay?')"), cell("FINAL(x)")]
    seen: list[int] = []
    with (
        endpoint(lambda request: replies.pop(0)) as boss,
        endpoint(reads) as worker,
        engine(short, worker),
        Engine() as client,
    ):
        result = client.run(
            QUESTION,
            TEXT,
            "scripted",
            base_url=boss.url,
            primitives=["supervisor"],
            sub_supervisor="recipe:find",
            on_progress=lambda progress: seen.append(progress.sub_runs),
        )
    assert (result.answer, result.sub_runs) == ("Goliath", 1)
    assert seen
    root, child = read(result.log_dir).runs.values()
    assert root.start is not None
    assert child.start is not None
    assert (root.start.supervisor, child.start.supervisor) == ("scripted", "recipe:find")
    assert root.sub_runs == [child]
    assert result.evidence.agreeing
