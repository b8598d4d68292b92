"""What a supervisor model may send, and which code of it runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.supervisor.reply import read_reply

CODE = "x = 1\nprint(x)"
RUNS = {
    "repl": f"```repl\n{CODE}\n```",
    "python": f"I look first.\n```python\n{CODE}\n```\nThen I wait.",
    "py": f"```py\n{CODE}\n```",
    "upper case": f"```Python\n{CODE}\n```",
    "with attributes": f'```python title="a.py"\n{CODE}\n```',
    "no language": f"```\n{CODE}\n```",
    "tildes": f"~~~python\n{CODE}\n~~~",
    "long fence": f"`````python\n{CODE}\n`````",
    "unclosed": f"Now:\n```repl\n{CODE}",
    "unclosed with a newline": f"```repl\n{CODE}\n",
    "after thinking": f"<think>\nMaybe ```repl\nbad()\n``` no\n</think>\n```repl\n{CODE}\n```",
    "thinking opened by the template": f"hm ```repl\nbad()\n```\n</think>\n```repl\n{CODE}\n```",
    "thinking in capitals": f"<THINK>```repl\nbad()\n```</THINK>```repl\n{CODE}\n```".replace(
        "</THINK>", "</THINK>\n"
    ),
    "beside another language": f"```json\n{{}}\n```\n```repl\n{CODE}\n```",
    "windows line ends": f"```repl\r\n{CODE}\r\n```\r\n",
    "in a list item": "1. Look:\n\n   ```python\n   x = 1\n   print(x)\n   ```\n",
}


@pytest.mark.parametrize("name", RUNS)
def test_the_code_is_found(name: str) -> None:
    reply = read_reply(RUNS[name])
    assert [block.replace("\r", "").strip("\n") for block in reply.blocks] == [CODE]
    compile(reply.blocks[0], "cell", "exec")


def test_blocks_come_in_order() -> None:
    text = "```repl\na\n```\nand\n```python\nb\n```\n```\nc\n```"
    assert read_reply(text).blocks == ("a", "b", "c")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("I know it: 42.", "no code block"),
        ("<think>hm ```repl\nx\n```", "reasoning only"),
        ("<think>hm</think>", "reasoning only"),
        ("```bash\nls\n```", "bash"),
        ("```repl\n\n```", "no code block"),
        ("```repl```", "no code block"),
    ],
)
def test_no_code_has_a_specific_message(text: str, problem: str) -> None:
    reply = read_reply(text)
    assert reply.blocks == ()
    assert problem in reply.problem


@pytest.mark.parametrize(
    "text",
    [
        'FINAL("x")',
        'So:\nFINAL("x")\n',
        '<think>FINAL("no")</think>\nFINAL("x")',
        'FINAL("x")\nI am sure (see the passages).',
    ],
)
def test_a_bare_final_counts(text: str) -> None:
    assert read_reply(text).blocks == ('FINAL("x")',)


def test_final_in_prose_does_not_run() -> None:
    assert read_reply("I would call FINAL(x) if I knew.").blocks == ()


def test_code_that_speaks_of_thinking_is_left_alone() -> None:
    code = 'a = re.sub(r"<think>.*?</think>", "", a)'
    assert read_reply(f"```repl\n{code}\n```").blocks == (code,)
    code = 'a = a.split("</think>")[-1]'
    assert read_reply(f"```repl\n{code}\n```").blocks == (code,)


def test_a_shorter_fence_inside_does_not_close() -> None:
    code = 's = """\n```\n"""'
    assert read_reply(f"````repl\n{code}\n````").blocks == (code,)


@given(st.text(max_size=300))
def test_any_reply_is_code_or_a_problem(text: str) -> None:
    reply = read_reply(text)
    assert bool(reply.blocks) != bool(reply.problem)


@given(
    st.lists(st.sampled_from(["```", "```repl", "~~~", "<think>", "</think>", "\n", "x=1", " "]))
)
def test_any_mixture_of_marks_is_read_in_reasonable_time(parts: list[str]) -> None:
    reply = read_reply("".join(parts) * 20)
    assert bool(reply.blocks) != bool(reply.problem)


def test_a_flood_of_marks_does_not_take_for_ever() -> None:
    for mark in ("```\n", "<think>", "</think>", "`" * 10 + "\n", "FINAL(\n", "~~~ x\n"):
        read_reply(mark * 5_000)
