"""The dialect of Recursive Language Models (github.com/alexzhang13/rlm), old and new: docs/rlm.md.

Its code runs as it stands: what its names do is in the prelude, a cell of distill's own names. What
is read here is the reply around the code: ```` ```repl ```` fences, and ``FINAL(…)`` or
``FINAL_VAR(…)`` on a line of its own outside of them, which older models write.
"""

import ast
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from distill.supervisor.cell_text import TRACEBACK_CHARS
from distill.supervisor.dialects import NONE_LEFT, Dialect
from distill.supervisor.history import told
from distill.supervisor.reply import FENCE, Reply, Said, read_reply, without_thinking
from distill.supervisor.text import clip

PRELUDE = (resources.files(__package__) / "rlm_prelude.py").read_text("utf-8")
END_OF_BLOCK = "\n_end_of_block()"
"""The prelude's; it makes the block's last expression silent, as there."""
REPL_BLOCK = re.compile(r"```repl[^\S\n]*+\n(.*?)(\n```|\Z)", re.DOTALL)
FENCED = re.compile(r"^[ \t]*```.*?(?:^[ \t]*```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
FINAL_VAR = re.compile(r"^[ \t]*+FINAL_VAR\(([^)]*+)(\)|\Z)", re.MULTILINE)
FINAL = re.compile(r"^[ \t]*+FINAL\((?:(.*)\)[^\S\n]*+$|.*+)", re.DOTALL | re.MULTILINE)
"""What is not closed is matched to its end: another after it is not closed either, and to look at
each would take for ever in a flood of them."""
SIMPLE_TYPES = {"str", "int", "float", "bool", "list", "dict", "tuple"}
"""Of variables that an rlm is told of."""
DISTILLS_OWN = {"query", "worker_window_tokens"}
"""Data in the REPL that an rlm does not expect there."""

NO_CODE = """\
{problem} Nothing was run. Write Python in a ```repl block; when you are done, set \
answer["content"] and answer["ready"] = True in one."""
LAST = """\
{none_left} Please provide a final answer to the question based on the information \
you have: in a ```repl block that sets answer["content"] and answer["ready"] = True, or as plain \
text."""


def read(reply: Said) -> Reply:
    """The blocks of a reply, each with its end; then what a bare FINAL or FINAL_VAR asks for.

    Where there is a ```repl block, only such are code; else any that the native dialect takes.
    """
    said = without_thinking(reply.text)
    blocks = tuple(code.strip() for code, end in REPL_BLOCK.findall(said) if end and code.strip())
    plain = read_reply(reply.text, reply.finish_reason, refused=reply.refused)
    final = _bare_final(FENCED.sub("", said))
    # Without a fence the native reading may be of the same bare line.
    if not blocks and (FENCE.search(said) or not final):
        blocks = plain.blocks
    found = (*(code + END_OF_BLOCK for code in blocks), *([final] if final else []))
    problem = plain.problem or "There was no code block in your reply."
    return Reply(found, "" if found else problem, plain.notes)


def _bare_final(prose: str) -> str:
    """The cell that does what such a line asks for, as the older rlm found it."""
    if (match := FINAL_VAR.search(prose)) and match[2]:
        name = match[1].strip().strip("\"'")
        return f"print(FINAL_VAR({name!r}))"
    if (match := FINAL.search(prose)) and match[1] is not None:
        return f"FINAL({_unquoted(match[1].strip())!r})"
    return ""


def _unquoted(text: str) -> str:
    """The answer that a line means: a text that is all one string literal is that string."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, str) else text


def shown(results: Sequence[Any], blocks: int) -> list[str]:
    """What the blocks printed, and the REPL's variables, in rlm's words."""
    parts = []
    for place, result in enumerate(results, 1):
        header = "REPL output:" if blocks == 1 else f"REPL output (block {place}):"
        parts.append(f"{header}\n{_output(result)}")
    if left := blocks - len(results):
        parts.append(f"The {left} block(s) after it did not run.")
    return parts


def _output(result: Any) -> str:
    stderr = result.stderr
    if (error := result.error) is not None:
        traceback = clip(error.traceback.rstrip(), TRACEBACK_CHARS)
        stderr += f"\n{error.name}: {error.message}\n{traceback}\n"
    if result.lost is not None:
        restored = told(result.restored) if result.restored is not None else ""
        stderr += f"\nThe cell was killed: {result.lost}. {restored}\n"
    names = [
        name
        for name, each in result.variables.items()
        if each.type in SIMPLE_TYPES and name not in DISTILLS_OWN
    ]
    parts = [f"\n{text}" for text in (result.stdout, stderr) if text]
    if names:
        parts.append(f"REPL variables: {names}\n")
    return "\n\n".join(parts) or "No output"


def closing(turn: int, turns: int, ended_by: str | None) -> list[str]:
    """The number of the turn that comes."""
    if ended_by is not None:
        return [LAST.format(none_left=NONE_LEFT[ended_by])]
    return [f"Turn {turn + 1}/{turns}:"]


RLM = Dialect(
    "rlm",
    20_000,
    read,
    shown,
    NO_CODE,
    closing,
    frozenset(
        "llm_query llm_query_batched rlm_query rlm_query_batched SHOW_VARS FINAL_VAR answer "
        "context_0".split()
    ),
    {"supervisor": "supervisor"},
    PRELUDE,
    turn_apart=True,
)
