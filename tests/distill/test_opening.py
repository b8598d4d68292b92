"""The first messages of a run: given as a list or by a function, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from distill import build_system_prompt, replay, resume, run
from distill.errors import InputError, ModelError
from distill.traces import read
from tests.distill.conftest import Ask
from tests.distill.scripted import Supervisor, Worker, cell
from tests.supervisor.processes import context_files

SHOWN = [
    {"role": "user", "content": "Question: How many words has the text?"},
    {"role": "assistant", "content": cell("FINAL(len(context.split()))")},
]


def with_examples(context: Any, query: str, **facts: Any) -> list[dict[str, str]]:
    """A worked example before the question."""
    system, question = build_system_prompt(context, query, **facts)
    return [system, *SHOWN, question]


def test_a_function_gets_what_the_built_prompt_is_made_of(ask: Ask, logged: Any) -> None:
    seen: list[tuple[Any, ...]] = []

    def messages(context: Any, query: str, **facts: Any) -> list[dict[str, str]]:
        seen.append((context, query, facts))
        return with_examples(context, query, **facts)

    supervisor = Supervisor(cell("FINAL(look('a'))"))

    def look(word: str) -> str:
        """Look a word up."""
        return word * 2

    result = ask(
        supervisor=supervisor, messages=messages, primitives={"look": look},
        worker_ctx_k=4, output_limit=500,
    )  # fmt: skip
    assert result.answer == "aa"
    ((context, query, facts),) = seen
    assert (context, query) == ("some text", "What?")
    told = "- `look(word: str) -> str`: Look a word up. (at most 1,000 calls)"
    assert (facts["worker_ctx_k"], facts["output_limit"]) == (4, 500)
    assert (facts["primitives"], not facts["packages"], not facts["models"]) == (
        {"look": told}, True, True,
    )  # fmt: skip
    assert supervisor.seen[0] == with_examples(context, query, **facts)
    assert logged().start.options["prompt"] == "function"
    assert logged().conversation()[:4] == supervisor.seen[0]


def test_a_list_is_used_as_it_is(ask: Ask) -> None:
    given = [{"role": "system", "content": "Write code."}, {"role": "user", "content": "Begin."}]
    supervisor = Supervisor(cell("FINAL(1)"))
    ask(supervisor=supervisor, messages=given)
    assert supervisor.seen[0] == given
    assert supervisor.seen[0][0] is not given[0]


USER = {"role": "user", "content": "Begin."}
BAD: dict[str, tuple[Any, str]] = {
    "nothing": ([], "a list of"),
    "a text": ("Begin.", "a list of"),
    "one message": (USER, "a list of"),
    "no content": ([{"role": "user"}], r"messages\[0\] must have a role and a content"),
    "a name": ([USER, {**USER, "name": "x"}], r"messages\[1\]"),
    "a role of its own": ([{**USER, "role": "boss"}], "'boss'"),
    "a role that can't be hashed": ([{**USER, "role": []}], "role"),
    "no text": ([{**USER, "content": ["x"]}], "a text as its content"),
    "an empty text": ([{**USER, "content": " "}], "a text as its content"),
    "a lone surrogate": ([{**USER, "content": "\udcff"}], "surrogate"),
    "the supervisor's own word last": ([USER, {**USER, "role": "assistant"}], "no say"),
}


@pytest.mark.parametrize("by", ["list", "function"])
@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_conversation(tmp_path: Path, kind: str, by: str) -> None:
    given, told = BAD[kind]
    supervisor = Supervisor()
    messages = given if by == "list" else lambda *_, **__: given
    with pytest.raises(InputError, match=told):
        run("What?", "text", supervisor, Worker(), messages=messages, log_dir=tmp_path / "log")
    assert supervisor.seen == []
    assert (tmp_path / "log" / "supervisor.jsonl").exists() is (by == "function")
    assert context_files() == []


def test_what_a_function_raises_is_raised(tmp_path: Path) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise LookupError("no such strategy")

    with pytest.raises(LookupError, match="no such strategy"):
        run("What?", "text", Supervisor(), Worker(), messages=broken, log_dir=tmp_path)


def test_a_run_with_examples_goes_on_and_is_done_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    supervisor = Supervisor(cell("x = 1"), ModelError("down"))
    with pytest.raises(ModelError):
        run("What?", "text", supervisor, Worker(), messages=with_examples, log_dir=log)
    after = Supervisor(cell("FINAL(x)"))
    assert resume(log, after, Worker()).answer == 1
    assert after.seen[0][:5] == supervisor.seen[1][:5]
    again = replay(log, log_dir=tmp_path / "again")
    assert (again.answer, again.iterations) == (1, 2)
    (told,) = read(tmp_path / "again").runs.values()
    assert [each.code for each in told.cells] == ["x = 1", "FINAL(x)"]
    assert told.conversation()[:4] == supervisor.seen[0]
