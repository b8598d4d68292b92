"""How endpoints say that a conversation does not fit the model's context window."""

import re

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
READ_CHARS = 4000


def says_too_long(status: int | None, message: str) -> bool:
    """Whether an error says so; no endpoint has one status or code for it."""
    return status in STATUSES and TOO_LONG.search(message[:READ_CHARS]) is not None
