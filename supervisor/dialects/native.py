"""distill's own dialect: ``worker``, ``worker_batch``, ``FINAL``, and what is said around them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from distill.supervisor.cell_text import render
from distill.supervisor.dialects import NONE_LEFT, Dialect
from distill.supervisor.reply import Reply, Said, read_reply

NO_CODE = """\
{problem} Nothing was run. Write Python in a fenced block:
```repl
print(len(context))
```
or, if you know the answer, call FINAL(answer) in one."""
NUDGE = "You have {left} left. Call FINAL(answer) with the best answer you have by then."
LAST = """\
{none_left} Reply now with the final answer only: either one fenced block that \
calls FINAL(answer), or the answer as plain text."""


def read(said: Said) -> Reply:
    """Whatever can be meant to be run."""
    return read_reply(said.text, said.finish_reason, refused=said.refused)


def shown(results: Sequence[Any], blocks: int) -> list[str]:
    """Each cell's outcome, and how many blocks did not run."""
    parts = [render(result) for result in results]
    if left := blocks - len(results):
        parts.append(f"The {left} block(s) after it did not run.")
    return parts


def closing(turn: int, turns: int, ended_by: str | None) -> list[str]:
    """Nothing, until two turns before the end."""
    left = turns - turn
    if ended_by is not None:
        return [LAST.format(none_left=NONE_LEFT[ended_by])]
    if left > 2:
        return []
    return [NUDGE.format(left="1 turn" if left == 1 else f"{left} turns")]


NATIVE = Dialect("native", 2000, read, shown, NO_CODE, closing)
BRIEF = replace(NATIVE, name="brief")
"""Other first messages (``distill.brief_prompt``); what follows is the same."""
