"""What a supervisor model may send, and which code of it runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.answers import FENCED
from distill.supervisor.dialects import rlm
from distill.supervisor.reply import Said, read_reply, without_thinking
from distill.supervisor.tool_calls import as_text

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


LONG = 200_000


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "```py" + " " * LONG + "\n",
        "```py" + " " * LONG + "`",
        "```py" + "\t" * LONG,
        "```" + " " * LONG + "`",
        "```" + "a" * LONG + "`",
        "```repl" + "\n" * LONG,
        "```json" + "\n" * LONG,
        "x```repl\n" * (LONG // 9),
        "```\nx(\n" * (LONG // 7),
        "```py\nf(\n```x\n" * (LONG // 14),
        "Hm" + "\n" * LONG,
        "FINAL(\n" * (LONG // 7),
        "FINAL_VAR(\n" * (LONG // 11),
        "FINAL(1)" + " " * LONG + "x",
        "`" * LONG + "x",
    ],
    ids=lambda text: f"{text[:12]!r} {text[-3:]!r}",
)
def test_a_long_flood_is_read_at_once(text: str) -> None:
    """What takes a time that grows with the square of the length takes minutes here."""
    read_reply(text)
    without_thinking(text)
    rlm.read(Said(text))
    FENCED.findall(text)


def test_a_reply_that_has_gone_wild_is_read_as_far_as_it_makes_sense() -> None:
    blocks = read_reply("```repl\nx = 1\n```\n" * 5_000).blocks
    assert 100 < len(blocks) < 1_000


# ---- tool calls --------------------------------------------------------------------------------

JSON = '{"name": "python", "arguments": {"code": "x = 1\\nprint(x)"}}'
ARGUMENTS = '{"code": "x = 1\\nprint(x)"}'
TOOL_CALLS = {
    "hermes": f"I look.\n<tool_call>\n{JSON}\n</tool_call>",
    "hermes, unclosed": f"<tool_call>{JSON}",
    "hermes, arguments as text": '<tool_call>{"name": "run", "arguments": '
    '"{\\"code\\": \\"x = 1\\\\nprint(x)\\"}"}</tool_call>',
    "hermes, line breaks in it": '<tool_call>{"name": "python", "arguments": '
    '{"code": "x = 1\nprint(x)"}}</tool_call>',
    "hermes, Python's quotes": "<tool_call>{'name': 'python', 'arguments': "
    "{'code': 'x = 1\\nprint(x)'}}</tool_call>",
    "openai": '<tool_call>{"type": "function", "function": '
    f'{{"name": "repl", "arguments": {ARGUMENTS}}}}}</tool_call>',
    "lines": '<tool_call>{"name": "x", "arguments": {"source": ["x = 1\\n", "print(x)"]}}',
    "another name": '<tool_call>{"name": "a", "parameters": {"input": "x = 1\\nprint(x)"}}',
    "sole argument": '<tool_call>{"name": "python", "arguments": {"it": "x = 1\\nprint(x)"}}',
    "jamba": f"<tool_calls>[{JSON}]</tool_calls>",
    "granite": f"<|tool_call|>[{JSON}]",
    "llama 3": f"<|python_tag|>{JSON}<|eom_id|>",
    "llama 3, code": f"<|python_tag|>{CODE}<|eom_id|>",
    "llama 3.2": f"<function=python>{ARGUMENTS}</function>",
    "llama 4": f"<|python_start|>{CODE}<|python_end|>",
    "qwen coder": "<tool_call>\n<function=python>\n<parameter=code>\n"
    f"{CODE}\n</parameter>\n</function>\n</tool_call>",
    "glm": "<tool_call>python\n<arg_key>code</arg_key>\n"
    f"<arg_value>{CODE}</arg_value>\n</tool_call>",
    "mistral": f"[TOOL_CALLS][{JSON}]",
    "mistral 11": f"[TOOL_CALLS]python[ARGS]{ARGUMENTS}",
    "phi": f"functools[{JSON}]",
    "internlm": f"<|action_start|><|plugin|>\n{JSON}<|action_end|>",
    "internlm, code": f"<|action_start|><|interpreter|>\n```python\n{CODE}\n```<|action_end|>",
    "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>python\n"  # noqa: RUF001
    f"```json\n{ARGUMENTS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",  # noqa: RUF001
    "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>functions.python:0"
    f"<|tool_call_argument_begin|>{ARGUMENTS}<|tool_call_end|><|tool_calls_section_end|>",
    "minimax": '<minimax:tool_call><invoke name="python"><parameter name="code">'
    f"{CODE}</parameter></invoke></minimax:tool_call>",
    "anthropic": '<function_calls>\n<invoke name="python">\n<parameter name="code">'
    f"{CODE}</parameter>\n</invoke>\n</function_calls>",
    "gpt-oss": "<|channel|>analysis<|message|>hm ```repl\nbad()\n```<|end|><|start|>assistant"
    f"<|channel|>commentary to=python code<|message|>{CODE}<|call|>",
    "after thinking": f"<think><tool_call>{{}}</tool_call></think><tool_call>{JSON}</tool_call>",
    "its end in a string": '<tool_call>{"name": "python", "arguments": {"code": '
    '"x = 1\\nprint(x)", "why": "</tool_call>"}}</tool_call>',
}  # fmt: skip


@pytest.mark.parametrize("name", TOOL_CALLS)
def test_the_code_of_a_tool_call_is_found(name: str) -> None:
    assert [block.strip("\n") for block in read_reply(TOOL_CALLS[name]).blocks] == [CODE]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ('{"code": "print("hi")"}', 'print("hi")'),
        ('{"code": "print(1)', "print(1)"),
        ('{"code": """print("a")\nprint("b")"""}', 'print("a")\nprint("b")'),
        ('{"code": "print(\'a\')\\nx = \\"b\\""', "print('a')\nx = \"b\""),
    ],
    ids=["quotes", "no end", "three quotes", "no brace"],
)
def test_malformed_arguments_are_read_if_they_can_be(call: str, code: str) -> None:
    for text in (
        f'<tool_call>{{"name": "python", "arguments": {call}</tool_call>',
        as_text("python", call),
    ):
        assert read_reply(text).blocks == (code,)


def test_a_call_of_a_function_of_the_repl_is_that_call() -> None:
    calls = (
        '<tool_call>{"name": "FINAL", "arguments": {"answer": "it\'s"}}</tool_call>'
        '<tool_call>{"name": "worker", "arguments": {"prompt": "a", "n": 2}}</tool_call>'
    )
    assert read_reply(calls).blocks == ('FINAL("it\'s")', "worker(prompt='a', n=2)")


def test_a_call_of_nothing_is_a_problem() -> None:
    for call in ("", "{}", '{"name": "python"}', '{"name": "python", "arguments": {}}', "[1, 2]"):
        assert "tool call has no code" in read_reply(f"<tool_call>{call}</tool_call>").problem


def test_a_mark_in_code_is_code() -> None:
    code = 'marks = text.count("<tool_call>")'
    assert read_reply(f"```repl\n{code}\n```").blocks == (code,)


# ---- odd fences, and none ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"```repl\n{CODE}```",
        f"```repl\n{CODE}```\nand so on\n",
        "```python x = 1; print(x)```",
        f"```repl\n{CODE}\n```repl\n```",
        "```pycon\n>>> x = 1\n>>> print(x)\n1\n```",
        f"[THINK]```repl\nbad()\n```[/THINK]\n```repl\n{CODE}\n```",
        f"◁think▷hm◁/think▷```repl\n{CODE}\n```".replace("▷```", "▷\n```"),
        f"<reasoning>hm</reasoning>\n{CODE}",
        f"```repl\n{CODE}<|im_end|>",
        CODE,
    ],
)
def test_fences_may_be_sloppy(text: str) -> None:
    (block,) = read_reply(text).blocks
    assert block.replace("; ", "\n").strip("\n") == CODE


def test_a_fence_in_a_string_does_not_end_the_code() -> None:
    code = 'prompt = f"""Read:\n```\n{text}\n```\n"""\nprint(prompt)'
    assert read_reply(f"```repl\n{code}\n```\nThat is all.").blocks == (code,)


@pytest.mark.parametrize("text", ["Yes", "42", "answer: 42", "main()", "x == 1", "David"])
def test_an_answer_is_no_code(text: str) -> None:
    assert read_reply(text).blocks == ()


# ---- why it ended ------------------------------------------------------------------------------


def test_an_open_block_of_a_reply_that_was_cut_off_does_not_run() -> None:
    text = f"```repl\n{CODE}\n```\n```repl\nx = 2"
    assert read_reply(text).blocks == (CODE, "x = 2")
    cut = read_reply(text, "length")
    assert cut.blocks == (CODE,)
    assert "the last block was not complete" in cut.notes[0]
    call = '<tool_call>{"name": "python", "arguments": {"code": "print(1'
    assert read_reply(call).blocks == ("print(1",)
    assert read_reply(call, "max_tokens").blocks == ()


def test_what_a_closed_block_says_runs_though_the_reply_was_cut_off() -> None:
    cut = read_reply(f"```repl\n{CODE}\n```\nNow I", "length")
    assert cut.blocks == (CODE,)
    assert "cut off at its length limit" in cut.notes[0]


@given(st.text(max_size=300), st.sampled_from(["stop", "length", "content_filter", "", "é"]))
def test_any_end_of_any_reply_is_code_or_a_problem(text: str, finish: str) -> None:
    reply = read_reply(text, finish)
    assert bool(reply.blocks) != bool(reply.problem)


MARKS = [
    "<tool_call>", "</tool_call>", '{"code": "', '"}', "<|python_tag|>", "```", "\n", "x=1", "{",
    "[TOOL_CALLS]", "<parameter=code>", "<arg_key>code</arg_key><arg_value>", "[",
]  # fmt: skip


@given(st.lists(st.sampled_from(MARKS)))
def test_any_mixture_of_calls_is_read_in_reasonable_time(parts: list[str]) -> None:
    reply = read_reply("".join(parts) * 20)
    assert bool(reply.blocks) != bool(reply.problem)


def test_a_flood_of_calls_does_not_take_for_ever() -> None:
    for mark in (*MARKS, '<tool_call>{"a": ', "<tool_call></tool_call>", "```repl\nx\n```\n"):
        read_reply(mark * 5_000)
