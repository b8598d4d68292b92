"""The dialect of Recursive Language Models: code and replies in rlm's own style, in a real jail."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill import RunResult, replay, resume, run
from distill.errors import InputError, ModelError
from distill.supervisor.dialects.rlm import END_OF_BLOCK, read
from distill.supervisor.reply import Said
from distill.traces import Run
from distill.traces import read as read_log
from tests.distill.conftest import Ask
from tests.distill.scripted import SMALL, Supervisor, Worker, cell, endpoint, prompt_of, run_bounded
from tests.distill.test_sub_runs import runs_of

CHUNKED = """
I will split the context and ask about each chunk.
```repl
query = "How many jobs did he have?"
chunk_size = len(context) // 10
chunks = []
for i in range(10):
    if i < 9:
        chunk_str = "\\n".join(context[i*chunk_size:(i+1)*chunk_size])
    else:
        chunk_str = "\\n".join(context[i*chunk_size:])
    chunks.append(chunk_str)

prompts = [f"Try to answer the following query: {query}. Here are the documents:\\n{chunk}." for chunk in chunks]
answers = llm_query_batched(prompts)
for i, answer in enumerate(answers):
    print(f"I got the answer from chunk {i}: {answer}")
final_answer = llm_query(f"Aggregating all the answers per chunk, answer: {query}\\n\\nAnswers:\\n" + "\\n".join(answers))
```
"""  # noqa: E501
"""After an example in rlm's prompt: it rebinds ``answer``, which is the REPL's own."""


def slow(*values: Any) -> Any:
    """A case that runs with ``--full``."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture
def ask_rlm(ask: Ask) -> Ask:
    """``run`` in the dialect."""

    def ask_rlm(*replies: Any, **options: Any) -> RunResult:
        return ask(*replies, **{"dialect": "rlm", **options})

    return ask_rlm


# -- what a reply says


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("```repl\nx = 1\n```", ["x = 1"]),
        ("One.\n```repl\na\n```\nTwo.\n```repl\nb\n```", ["a", "b"]),
        ("```repl\nx = 1\n```\n```python\nnot run\n```", ["x = 1"]),
        ("```python\nx = 1\n```", ["x = 1"]),
        ("```repl\nx = 1", ["x = 1"]),
        ("<think>```repl\nno\n```</think>\n```repl\nyes\n```", ["yes"]),
    ],
)
def test_the_blocks_of_a_reply(text: str, blocks: list[str]) -> None:
    assert list(read(Said(text)).blocks) == [block + END_OF_BLOCK for block in blocks]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("FINAL(42)", "FINAL('42')"),
        ("Done.\n  FINAL(The answer (as found) is 42.)\n", "FINAL('The answer (as found) is 42.')"),
        ("FINAL(two\nlines)", "FINAL('two\\nlines')"),
        ('FINAL("quoted")', "FINAL('quoted')"),
        ("FINAL_VAR(x)", "print(FINAL_VAR('x'))"),
        ("FINAL_VAR( 'x' ) as I said", "print(FINAL_VAR('x'))"),
        ("FINAL(a)\nFINAL_VAR(b)", "print(FINAL_VAR('b'))"),
    ],
)
def test_a_bare_line_is_the_answer(text: str, code: str) -> None:
    assert read(Said(text)).blocks == (code,)
    assert read(Said("```repl\nx = 1\n```\n" + text)).blocks == ("x = 1" + END_OF_BLOCK, code)


@pytest.mark.parametrize(
    "text",
    [
        "I will call FINAL(x) later",
        "`FINAL_VAR(x)`",
        "<think>\nFINAL(42)\n</think>",
        "<think>\nFINAL_VAR(x)\n</think>\nNothing yet.",
        "```text\nFINAL(42)\n```",
        "",
    ],
)
def test_no_answer_and_no_code(text: str) -> None:
    reply = read(Said(text))
    assert reply.blocks == ()
    assert reply.problem


def test_a_tool_call_is_code() -> None:
    text = '<tool_call>{"name": "repl", "arguments": {"code": "x = 1"}}</tool_call>'
    assert read(Said(text)).blocks == ("x = 1" + END_OF_BLOCK,)


def test_a_final_inside_code_is_code() -> None:
    text = "```repl\nif False:\n    pass\nFINAL(x)\n```"
    assert read(Said(text)).blocks == (text[8:-4] + END_OF_BLOCK,)


# -- code as it is written for rlm


def test_a_chunked_question(ask_rlm: Ask, logged: Callable[[], Run]) -> None:
    supervisor = Supervisor(
        CHUNKED,
        '```repl\nanswer["content"] = final_answer\nanswer["ready"] = True\n```',
    )
    worker = Worker(lambda prompt: "three" if "Aggregating" in prompt else f"{len(prompt)}")
    lines = [f"line {i}" for i in range(100)]
    result = ask_rlm(supervisor=supervisor, worker=worker, context=lines)
    assert (result.answer, result.status, result.iterations) == ("three", "final", 2)
    assert result.worker_calls == 11
    assert "I got the answer from chunk 9" in supervisor.seen[1][-2]["content"]
    told = logged()
    functions = [(batch.function, batch.items) for batch in told.batches]
    assert functions == [("worker_batch", 10), ("worker", 1)]
    assert not told.primitives, "a prompt is logged once, as a worker call"


def test_the_messages_have_rlms_shape(ask_rlm: Ask, logged: Callable[[], Run]) -> None:
    supervisor = Supervisor(
        "```repl\nprint('a' * 3)\nx = [1]\n```\n```repl\n1 / 0\n```",
        "I only think.",
        cell("answer['content'], answer['ready'] = 7, True"),
    )
    assert ask_rlm(supervisor=supervisor, max_iterations=5).answer == "7"
    system, asked, first = supervisor.seen[0]
    assert system["role"] == "system"
    for name in ("llm_query", "llm_query_batched", "rlm_query", "SHOW_VARS", '"ready": False'):
        assert name in system["content"]
    assert asked["content"].startswith("Answer the following: What?\n\nYour context is a str of 9 ")
    assert first["content"].endswith("Turn 1/5:")
    _, output, second = supervisor.seen[1][3:]
    blocks = output["content"].split("\n\nREPL output (block 2):\n")
    assert blocks[0].startswith("REPL output (block 1):\n\naaa\n")
    assert blocks[0].endswith("REPL variables: ['context', 'context_0', 'answer', 'x']\n")
    assert "ZeroDivisionError: division by zero\nTraceback" in blocks[1]
    assert second["content"] == "Turn 2/5:"
    assert "Nothing was run" in supervisor.seen[2][-2]["content"]
    assert supervisor.seen[2][-1]["content"] == "Turn 3/5:"
    told = logged()
    for turn, seen in enumerate(supervisor.seen, 1):
        assert told.conversation(turn) == seen


def test_the_names_of_the_repl_come_back(ask_rlm: Ask) -> None:
    code = """\
context, answer, llm_query, kept = 'mine', llm_query('x'), None, SHOW_VARS()
print(kept)"""
    again = """\
print(context == context_0, llm_query('y'), SHOW_VARS())
answer["content"] = kept
answer["ready"] = 1"""
    supervisor = Supervisor(cell(code), cell(again))
    result = ask_rlm(supervisor=supervisor, context="a text")
    assert result.answer == "Available variables: {'context': 'str', 'context_0': 'str'}"


@pytest.mark.parametrize(
    "code",
    [
        "answer = {'content': [1, 2], 'ready': True}",
        "answer['ready'] = True\nanswer['content'] = [1, 2]",
        slow("answer.update(content=[1, 2], ready='yes')"),
        "x = [1, 2]\nFINAL_VAR('x')",
        slow("x = [1, 2]\nprint(FINAL_VAR(\"'x'\"))"),
        slow("FINAL_VAR([1, 2])"),
        slow("FINAL('[1, 2]')"),
        "if True:\n    answer['content'] = [1, 2]\n    answer['ready'] = True  # done",
    ],
)
def test_ways_to_give_the_answer(ask_rlm: Ask, code: str) -> None:
    assert ask_rlm(cell(code)).answer == "[1, 2]"


def test_what_comes_after_ready_in_the_block_is_done(ask_rlm: Ask, logged: Any) -> None:
    assert ask_rlm(cell("answer['ready'] = True\nprint('and this')")).answer == ""
    assert "and this" in logged().cells[-1].stdout


def test_a_bare_line_ends_the_run(ask_rlm: Ask) -> None:
    supervisor = Supervisor(
        "FINAL_VAR(found)", "```repl\nfound = llm_query('x')\n```\nFINAL_VAR(found)"
    )
    result = ask_rlm(supervisor=supervisor)
    assert (result.answer, result.iterations) == ("<x>", 2)
    assert "Error: Variable 'found' not found" in supervisor.seen[1][-2]["content"]
    assert ask_rlm("Well.\n\nFINAL(The answer is 42)").answer == "The answer is 42"


def test_failures_are_texts_that_begin_with_error(ask_rlm: Ask) -> None:
    def answer(prompt: str) -> str:
        if prompt == "bad":
            raise ModelError("it broke")
        return f"<{prompt}>"

    code = """\
answer['content'] = [llm_query('bad'), llm_query(5), llm_query('x', model='nobody'),
    llm_query('x', 'hand') , llm_query_batched(['a', 'bad']), llm_query_batched([]),
    llm_query_batched(['a', 5]), llm_query_batched(p for p in 'ab')]
answer['ready'] = True"""
    worker = Worker(answer)
    worker.model = "hand"
    import ast

    found = ast.literal_eval(ask_rlm(cell(code), worker=worker).answer)
    assert found[0].startswith("Error: ")
    assert "it broke" in found[0]
    assert found[1].startswith("Error: ")
    assert found[2].startswith("Error: no worker serves 'nobody'")
    assert found[3] == "<x>"
    # A handler that raises fails the batch that it was given.
    assert found[4][1].startswith("Error: ")
    assert found[5] == []
    assert [each.startswith("Error: ") for each in found[6]] == [True, True]
    assert found[7] == ["<a>", "<b>"]


def test_a_bare_expression_is_not_shown_and_output_is_bounded(ask_rlm: Ask) -> None:
    supervisor = Supervisor(cell("'not shown'"), cell("print('y' * 30_000)"), "FINAL(x)")
    ask_rlm(supervisor=supervisor)
    assert "not shown" not in supervisor.seen[1][-2]["content"]
    assert 20_000 < len(supervisor.seen[2][-2]["content"]) < 20_200


def test_the_last_word_is_asked_for_in_its_words(ask_rlm: Ask) -> None:
    supervisor = Supervisor(cell("x = 1"), "It is one.")
    result = ask_rlm(supervisor=supervisor, max_iterations=1)
    assert (result.answer, result.status) == ("It is one.", "forced")
    assert "no turns left" in supervisor.shown(2)
    assert "Turn 2" not in supervisor.shown(2)


# -- rlm_query


class Recursive(Supervisor):
    """The root's replies in order; a sub-run's by its prompt, which it reads from its context."""

    def __init__(self, *replies: Any, below: str) -> None:
        super().__init__(*replies)
        self.below = below

    def chat(self, messages: Any, **kw: Any) -> Any:
        if "Do what the prompt in `context` asks." in messages[1]["content"]:
            return Supervisor(cell(self.below)).chat(messages)
        return super().chat(messages, **kw)


BELOW = """\
if 'bad' in context: raise ValueError(context)
answer['content'] = {'did': context, 'sub': llm_query('w'), 'again': rlm_query('deeper')}
answer['ready'] = True"""


def test_rlm_query_is_a_run_of_its_own(ask_rlm: Ask, log: Path) -> None:
    code = cell("answer = {'content': rlm_query('Sum it up: ' + context), 'ready': True}")
    result = ask_rlm(supervisor=Recursive(code, below=BELOW), context="text")
    # Below the last level it is llm_query.
    assert result.answer == "{'did': 'Sum it up: text', 'sub': '<w>', 'again': '<deeper>'}"
    assert (result.sub_runs, result.worker_calls) == (1, 2)
    root, (child,) = runs_of(log)
    assert child.start is not None
    assert child.start.options["dialect"] == "rlm"
    assert child.context() == "Sum it up: text"
    assert root.start is not None
    assert root.start.options["max_depth"] == 1


def test_rlm_query_batched(ask_rlm: Ask) -> None:
    code = """\
found = rlm_query_batched(['one', 'bad', 'two'])
answer = {'content': [f.partition(',')[0] for f in found], 'ready': True}"""
    supervisor = Recursive(cell(code), below=BELOW)
    result = ask_rlm(supervisor=supervisor, max_iterations=1, timeout_s=40)
    assert result.sub_runs == 3
    assert result.answer == str(
        ["{'did': 'one'", "Error: it ended without an answer", "{'did': 'two'"]
    )


def test_without_depth_rlm_query_is_llm_query(ask_rlm: Ask) -> None:
    code = "answer = {'content': [rlm_query('a'), rlm_query_batched(['b', 'c'])], 'ready': True}"
    supervisor = Supervisor(cell(code))
    result = ask_rlm(supervisor=supervisor, max_depth=0)
    assert (result.answer, result.sub_runs) == ("['<a>', ['<b>', '<c>']]", 0)
    assert "the same as `llm_query`" in supervisor.seen[0][0]["content"]


# -- the log


def test_the_prelude_is_a_cell_and_comes_back_with_the_session(ask_rlm: Ask, logged: Any) -> None:
    result = ask_rlm(
        cell("x = llm_query('a')"),
        cell("import os; os._exit(1)"),
        cell("answer['content'] = x + llm_query('b')\nanswer['ready'] = True"),
    )
    assert result.answer == "<a><b>"
    told = logged()
    first = told.cells[0]
    assert (first.turn, first.cell, first.status) == (0, 1, "ok")
    assert "def llm_query(" in first.code
    assert told.cells[1].code == "x = llm_query('a')" + END_OF_BLOCK


def test_a_run_that_was_cut_off_goes_on_in_the_dialect(log: Path) -> None:
    broken = Supervisor(cell("x = llm_query('a')\nprint(x)"), ModelError("down"))
    with pytest.raises(ModelError):
        run("What?", "text", broken, Worker(), log_dir=log, limits=SMALL, dialect="rlm")
    worker = Worker()
    mended = Supervisor(cell("print(SHOW_VARS())"), "FINAL_VAR(x)")
    result = resume(log, mended, worker)
    assert result.answer == "<a>"
    assert worker.prompts == []
    assert mended.seen[0][-1]["content"] == "Turn 2/15:"
    assert "'x': 'str'" in mended.seen[1][-2]["content"]


def test_a_recorded_run_is_done_again_in_the_dialect(
    ask_rlm: Ask, log: Path, tmp_path: Path
) -> None:
    first = ask_rlm(
        supervisor=Recursive(cell("x = rlm_query('p')"), "FINAL_VAR(x)", below=BELOW), max_depth=2
    )
    again = replay(log, log_dir=tmp_path / "again")
    assert again.answer == first.answer
    assert "did" in again.answer
    (alone,) = read_log(tmp_path / "again").runs.values()
    assert [each.code for each in alone.cells] == [each.code for each in runs_of(log)[0].cells]


# -- the doors


def test_an_endpoint_hears_what_an_rlm_hears(tmp_path: Path) -> None:
    replies = [cell("print(llm_query('hi'))"), "FINAL(done)"]

    def answer(request: dict[str, Any]) -> str:
        return "hello" if prompt_of(request) == "hi" else replies.pop(0)

    from distill import OpenAIHandler

    with endpoint(answer) as server:
        boss = OpenAIHandler("scripted", server.url, "none")
        hand = OpenAIHandler("scripted", server.url, "none")
        result = run_bounded(
            lambda: run("What?", "text", boss, hand, dialect="rlm", log_dir=tmp_path, limits=SMALL)
        )
    assert result.answer == "done"
    first, _, last = server.requests
    assert last["messages"][: len(first["messages"])] == first["messages"]


def test_what_is_no_dialect(ask: Ask) -> None:
    with pytest.raises(InputError, match="native, brief, rlm"):
        ask(dialect="latin")


def test_a_primitive_can_not_have_its_names(ask_rlm: Ask) -> None:
    with pytest.raises(InputError, match="llm_query"):
        ask_rlm(primitives={"llm_query": str})
