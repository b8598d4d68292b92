"""How endpoints say that a conversation does not fit the model's context window."""

import re
from typing import NamedTuple

STATUSES = frozenset((None, 400, 403, 413, 422, 500))
"""None: an error inside a reply, without a status of its own."""
TOO_LONG = re.compile(
    r"""
    context_length_exceeded | exceed_context_size | string_above_max_length
    | (context|prompt|sequence|model)[ -]?(length|size|window)
      .{0,40}(exceed|smaller|overflow|too\ (small|short)|is\ only)
    | (maximum|max|configured|supported)[ ](allowed[ ])?
      (context|prompt|input|model|sequence|number\ of\ (input\ )?tokens)([ -](length|size|window))?
      ([ ](is|of|allowed|limit)|\ \(|\ but)
    | (exceed|over|longer\ than|larger\ than|greater\ than|too\ large\ for|beyond|overflow)
      .{0,80}(context|(maximum|model)[ ](model[ ])?length|maximum\ number\ of\ tokens|token\ limit
      |configured\ limit)
    | (prompt|input|message|conversation|request)s?[ ](is|are)?[ ]?too\ (long|large)
    | too\ many\ (input\ |prompt\ )?tokens
    | reduce\ (the\ |your\ )?(length|message\ size|number\ of\ tokens|prompt)
    | inputs?`?\ tokens\ \+\ `?max_new_tokens`?\ must\ be
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
COUNT = r"`?(\d[\d,]*)`?"
WINDOW = re.compile(
    rf"""
    maximum\ context\ (?:length|window)\ (?:is|of)\ {COUNT}
    | context\ limit:\ \d+\ \+\ \d+\ >\ {COUNT}
    | max_new_tokens`?\ must\ be\ <=\ {COUNT}
    """,
    re.IGNORECASE | re.VERBOSE,
)
PROMPT = re.compile(
    rf"""
    (at\ least\ )?{COUNT}\ input\ tokens
    | {COUNT}\ (?:tokens\ )?in\ the\ (?:messages|prompt)\b
    | context\ limit:\ {COUNT}\ \+
    | given:\ {COUNT}\ `?inputs
    """,
    re.IGNORECASE | re.VERBOSE,
)
REPLY = re.compile(
    r"max_(?:completion_|new_)?tokens|(?:output|completion) tokens|in the completion",
    re.IGNORECASE,
)
READ_CHARS = 4000


class Room(NamedTuple):
    """What an error says of the window, and of what its prompt leaves (None: that is not known)."""

    window_tokens: int
    left_tokens: int | None


def reply_room(message: str) -> Room | None:
    """The room that a reply has, where the prompt and the longest reply together have none.

    None: the error does not say so, or the prompt alone is too long.
    """
    message = message[:READ_CHARS]
    window, prompt = WINDOW.search(message), PROMPT.search(message)
    if window is None or prompt is None or not REPLY.search(message):
        return None
    window_tokens = _count(*window.groups())
    at_least, *counts = prompt.groups()
    left_tokens = window_tokens - _count(*counts)
    if left_tokens <= 0:
        return None
    # vLLM stops to count where the prompt is longer than the reply leaves room for.
    return Room(window_tokens, None if at_least else left_tokens)


def _count(*found: str | None) -> int:
    return next(int(each.replace(",", "")) for each in found if each)


def says_too_long(status: int | None, message: str) -> bool:
    """Whether an error says so; no endpoint has one status or code for it."""
    return status in STATUSES and TOO_LONG.search(message[:READ_CHARS]) is not None
