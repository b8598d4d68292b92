"""What stands in place of turns that are left out of a conversation grown too long.

::

    opening │ turns 1 … 6 │ turns 7, 8 …     the conversation, all of it in the log
    opening │ note, state │ turns 7, 8 …     what is sent from now on
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.supervisor.cell_text import describe_variables
from distill.supervisor.reply import read_reply, without_thinking
from distill.supervisor.text import clip

NAMES_SHOWN = 100
HEAD_CHARS = (40, 160)
"""Of what a turn did, and of what came of it: the least and the most that is told."""
LEAST_CHARS = 500
NOTE = "(My turns {first} to {last} are left out here: the conversation had become too long.)"
STATE = """\
Turns {first} to {last} are left out, because the conversation no longer fits your window. Only \
the messages are gone: the REPL is as they left it, with all its names.

Names in the REPL: {names}

What those turns did, in short:
{heads}{last_output}

Go on from here; print again what you need to see."""
LAST_OUTPUT = "\n\nThe last message before this one:\n{text}"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A reply of the supervisor model, the index of its message, and what was told after it."""

    turn: int
    reply: str
    told: str
    start: int


def note(gone: Sequence[Exchange]) -> str:
    """The model's own line in place of its turns, so that roles go on alternating."""
    return NOTE.format(first=gone[0].turn, last=gone[-1].turn)


def state(
    gone: Sequence[Exchange], variables: Mapping[str, Any], limit_chars: int, *, is_all: bool
) -> str:
    """How things stand after the turns that are gone, in some ``limit_chars``.

    ``is_all``: no turn is left, so the end of the last is told at more length.
    """
    least, most = HEAD_CHARS
    chars = min(max(limit_chars // 5 // len(gone), least), most)
    heads = [
        f"- turn {each.turn}: {_head(_did(each.reply), chars)} → {_head(each.told, chars)}"
        for each in gone
    ]
    while len(heads) > 1 and sum(map(len, heads)) > limit_chars // 2:
        del heads[0]
    if len(heads) < len(gone):
        heads.insert(0, f"- (and {len(gone) - len(heads)} before)")
    share = max(LEAST_CHARS, limit_chars // 4)
    last = clip(gone[-1].told, share) if is_all else ""
    names = clip(describe_variables(variables, NAMES_SHOWN) or "none yet", share)
    return STATE.format(
        first=gone[0].turn,
        last=gone[-1].turn,
        names=names,
        heads="\n".join(heads),
        last_output=LAST_OUTPUT.format(text=last) if last else "",
    )


def _did(reply: str) -> str:
    """A reply's code, or what it said."""
    blocks = read_reply(reply).blocks
    return "; ".join(blocks) if blocks else without_thinking(reply)


def _head(text: str, chars: int) -> str:
    words = " ".join(text[: 4 * chars].split())
    return words if len(words) <= chars else words[: chars - 1] + "…"
