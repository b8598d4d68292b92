"""Code that a model wrote as a tool call, in the forms that chat templates and endpoints give it.

Models that were taught tools call one even where none is offered. Most forms are a mark, JSON
with a name and arguments, and a closing mark; some have tags for each argument, some bare code.
"""

import ast
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

CODE_KEYS = ("code", "python", "python_code", "source", "script", "cell", "input", "code_string")
"""What the argument with the code is called."""
CODE_TOOLS = frozenset(
    ("python", "repl", "ipython", "jupyter", "code", "execute", "run", "exec", "interpreter",
     "code_interpreter", "execute_code", "run_code", "execute_python", "run_python",
     "python_interpreter", "python_repl", "execute_cell", "run_cell", "tool", "browser")
)  # fmt: skip
"""Names of tools that run code: without code in it, a call of one is no call of a function."""
ARGUMENTS = ("arguments", "parameters", "args", "kwargs", "tool_input", "action_input")
CALLS_READ = 20
"""Of one block of calls, at most: it is hostile, or has gone wild."""


@dataclass(frozen=True, slots=True)
class Form:
    """How tool calls begin and end. ``is_code``: what is between may be the bare code."""

    opening: re.Pattern[str]
    closing: re.Pattern[str]
    is_code: bool = False


def _form(opening: str, closing: str = r"\Z", *, is_code: bool = False) -> Form:
    return Form(re.compile(opening, re.MULTILINE), re.compile(closing), is_code)


FORMS = (
    _form(r"<tool_calls?>", r"</tool_calls?>"),  # Hermes, Qwen, GLM, Granite, Hunyuan, Jamba
    _form(r"<\|tool_calls?\|>", r"<\|/?tool_calls?(_end)?\|>"),  # Granite 3
    _form(r"<[a-z]+:tool_call>", r"</[a-z]+:tool_call>"),  # MiniMax, Seed
    _form(r"<function_calls>", r"</function_calls>"),
    _form(r"<function=(?=\w)", r"</function>"),  # Llama, Functionary, Qwen coder
    _form(r"<\|python_tag\|>", r"<\|eo[mt]_id\|>", is_code=True),  # Llama 3
    _form(r"<\|python_start\|>", r"<\|python_end\|>", is_code=True),  # Llama 4
    _form(r"<\|action_start\|>\s*(<\|\w+\|>)?", r"<\|action_end\|>", is_code=True),  # InternLM
    _form("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),  # noqa: RUF001  (DeepSeek's own)
    _form(r"<\|tool_calls_section_begin\|>", r"<\|tool_calls_section_end\|>"),  # Kimi
    _form(r"^\[TOOL_CALLS\]"),  # Mistral
    _form(r"^functools(?=\[)"),  # Phi
    _form(
        r"<\|channel\|>\w+ to=[^<]*(<\|constrain\|>\w+)?<\|message\|>",
        r"<\|(call|end)\|>",
        is_code=True,
    ),  # gpt-oss
)
PARAMETER = re.compile(
    r"<(?:\w+:)?parameter(?:=|\s+name=)[\"']?(\w+)[\"']?>(.*?)(?:</(?:\w+:)?parameter>|\Z)"
    r"|<arg_key>\s*(\w+)\s*</arg_key>\s*<arg_value>(.*?)(?:</arg_value>|\Z)",
    re.DOTALL,
)
NAMED = re.compile(r"(?:<function=|<invoke name=[\"']?|\A\s*)([A-Za-z_][\w.]*)")
NAME_BEFORE = re.compile(r"([A-Za-z_][\w.]*)(?::\d+)?\s*(?:<[^<>]{1,60}>|\[ARGS\]|```\w*|>)?\s*\Z")
CODE_VALUE = re.compile(rf"[\"'](?:{'|'.join(CODE_KEYS)})[\"']\s*:\s*")
FENCED = re.compile(r"```(?:python|py|repl)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
ESCAPED = re.compile(r"\\([\"'\\/nrt])")
UNESCAPED = {"n": "\n", "r": "\r", "t": "\t"}


def as_text(name: str, arguments: str) -> str:
    """A call that came in an endpoint's own form, as Hermes' text: exactly what was said.

    Arguments that are no JSON are a string of it.
    """
    given = arguments if arguments.strip() else "{}"
    try:
        json.loads(given)
    except (ValueError, RecursionError):
        given = json.dumps(given, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {given}}}\n</tool_call>'


def read_calls(text: str, form: Form, opening: re.Match[str]) -> tuple[list[str], int, bool]:
    """The code of the calls that open here, where they end, and whether they were closed."""
    start = opening.end()
    if form.opening.pattern.startswith("<function="):
        start = opening.start()
    after = _after_json(text, opening.end())
    closing = form.closing.search(text, after)
    end = closing.start() if closing else len(text)
    body = text[start:end]
    if form.is_code and body.strip()[:1] not in ("{", "["):
        inner = FENCED.search(body)
        codes = [inner[1] if inner else body.strip()]
    else:
        codes = list(_tagged(body) or _from_json(body))
    is_closed = closing is not None and (closing.end() > closing.start() or _is_whole(body))
    return [code for code in codes if code.strip()], closing.end() if closing else end, is_closed


def _after_json(text: str, start: int) -> int:
    """Behind the JSON that begins here, if some does: its strings may have a closing mark."""
    begin = re.compile(r"\s*(?=[{\[])").match(text, start)
    decoded = begin and _decoded(text, begin.end())
    return decoded[1] if decoded else start


def _decoded(text: str, start: int) -> tuple[Any, int] | None:
    try:
        return json.JSONDecoder(strict=False).raw_decode(text, start)
    except (ValueError, RecursionError):
        return None


def _is_whole(body: str) -> bool:
    """Whether calls without a closing mark of their own were not cut off."""
    return body.rstrip().endswith(("}", "]"))


def _tagged(body: str) -> list[str]:
    """Calls with a tag for each argument."""
    given = {(m[1] or m[3]): (m[2] or m[4] or "") for m in PARAMETER.finditer(body)}
    if not given:
        return []
    codes = [
        (m[2] or m[4] or "").strip("\n")
        for m in PARAMETER.finditer(body)
        if (m[1] or m[3]) in CODE_KEYS
    ]
    named = NAMED.search(body)
    return codes or ([_code(named[1], given)] if named else [])


def _from_json(body: str) -> Iterator[str]:
    """The code of each object that is a call, or the arguments of one."""
    position, found = 0, 0
    while found < CALLS_READ and (begin := re.compile(r"[{\[]").search(body, position)):
        decoded = _decoded(body, begin.start()) or _literal(body, begin.start())
        if decoded is None:
            break
        value, end = decoded
        before = NAME_BEFORE.search(body[max(0, begin.start() - 200) : begin.start()])
        for each in (value if isinstance(value, list) else [value])[:CALLS_READ]:
            found += 1
            yield _of_call(each, before[1] if before else "")
        position = end
    if not found:
        yield _salvaged(body)


def _literal(body: str, start: int) -> tuple[Any, int] | None:
    """An object with Python's quotes, which is the rest."""
    end = max(body.rfind("}"), body.rfind("]")) + 1
    try:
        return ast.literal_eval(body[start:end]), end
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _of_call(call: Any, name: str) -> str:
    if not isinstance(call, dict):
        return ""
    if isinstance(call.get("function"), dict):
        call = call["function"]
    told = call.get("name") or call.get("tool_name") or call.get("action")
    given = next((call[key] for key in ARGUMENTS if key in call), None)
    if given is None and "name" not in call:
        given = call
    return _code(told if isinstance(told, str) else name, given)


def _code(name: str, given: Any) -> str:
    """The code of a call: an argument, or, where it is of a function of the REPL, the call."""
    if isinstance(given, str):
        if given.strip()[:1] not in ("{", "["):
            return given
        decoded = _decoded(given.strip(), 0)
        return _code(name, decoded[0]) if decoded else _salvaged(given)
    if not isinstance(given, dict):
        return ""
    for key in CODE_KEYS:
        value = given.get(key)
        if isinstance(value, list) and all(isinstance(line, str) for line in value):
            return "".join(line if line.endswith("\n") else line + "\n" for line in value)
        if isinstance(value, str):
            return value
    name = name.rpartition(".")[2]
    if name.lower() in CODE_TOOLS or not name.isidentifier():
        return next(iter(given.values())) if _is_one_text(list(given.values())) else ""
    if len(given) == 1:
        return f"{name}({next(iter(given.values()))!r})"
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})"


def _is_one_text(values: Sequence[Any]) -> bool:
    return len(values) == 1 and isinstance(values[0], str)


def _salvaged(body: str) -> str:
    """The code in JSON that is none: quotes that were not escaped, or an end that is missing."""
    begin = CODE_VALUE.search(body)
    if begin is None or body[begin.end() : begin.end() + 1] not in ('"', "'"):
        return ""
    rest = body[begin.end() :]
    quotes = rest[:3] if rest[:3] in ('"""', "'''") else rest[:1]
    rest = rest[len(quotes) :]
    last = rest.rfind(quotes)
    if last >= 0 and not rest[last + len(quotes) :].strip(" \t\r\n}],"):
        rest = rest[:last]
    return ESCAPED.sub(lambda match: UNESCAPED.get(match[1], match[1]), rest)
