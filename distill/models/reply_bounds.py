"""How an endpoint wants its replies bounded, as its refusals say."""

import re
from collections.abc import Mapping
from typing import Any

from distill.completion import is_count
from distill.models.request import REPLY_BOUNDS
from distill.token_estimate import prompt_tokens
from distill.window_errors import Room, reply_room

STATUSES = frozenset((None, 400, 422))
"""None: an error inside a reply, without a status of its own."""
LEAST_TOKENS = 256
"""A reply with less room than this is not asked for."""
TIMES = 3
"""One call is asked so often with another bound: a name, a number, and the number after those."""
WRONG_NAME = re.compile(
    r"unsupported|not\ support|unrecogni[sz]ed|unknown|unexpected|not\ permitted|extra\ |instead",
    re.IGNORECASE | re.VERBOSE,
)
TOO_MANY = re.compile(
    r"max_(completion_|new_|output_)?tokens|(completion|output)\ tokens", re.IGNORECASE
)
NUMBER = re.compile(r"(?<![\w.-])\d{1,3}(?:,\d{3})+(?![\w-])|(?<![\w.-])\d+(?![\w-])")
READ_CHARS = 4000


class ReplyBounds:
    """What one model's endpoint has said; any thread may ask. Nothing is known at first."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._most_tokens: int | None = None
        self._window_tokens: int | None = None

    def fitted(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The request, bounded so that it is not refused for what was refused before."""
        asked = _bound_of(request)
        if asked is None:
            return dict(request)
        name, tokens = asked
        if self._most_tokens is not None:
            tokens = min(tokens, self._most_tokens)
        if self._window_tokens is not None:
            tokens = min(tokens, _room_beside(request, self._window_tokens))
        return _with_bound(request, self._name or name, tokens)

    def refused(
        self, request: Mapping[str, Any], status: int | None, said: str
    ) -> dict[str, Any] | None:
        """What to ask in place of a request that was refused so; None: it is not its bound."""
        asked, said = _bound_of(request), said[:READ_CHARS]
        if status not in STATUSES:
            return None
        if (room := reply_room(said)) is not None:
            return self._shortened(request, asked, room)
        if asked is None or not TOO_MANY.search(said):
            return None
        name, tokens = asked
        other = REPLY_BOUNDS[1 - REPLY_BOUNDS.index(name)]
        if WRONG_NAME.search(said) and name in said and self._name is None:
            self._name = other
            return _with_bound(request, other, tokens)
        numbers = [int(found.replace(",", "")) for found in NUMBER.findall(said)]
        lower = [number for number in numbers if 16 <= number < tokens and number != status]
        if not lower:
            return None
        self._most_tokens = max(lower)
        return _with_bound(request, name, self._most_tokens)

    def _shortened(
        self, request: Mapping[str, Any], asked: tuple[str, int] | None, room: Room
    ) -> dict[str, Any] | None:
        """With the room that the window leaves; None: it is the conversation that is too long."""
        name, tokens = asked or (self._name or REPLY_BOUNDS[0], room.window_tokens)
        left = room.left_tokens
        if left is None:
            left = _room_beside(request, room.window_tokens)
        self._window_tokens = room.window_tokens
        if not LEAST_TOKENS <= left < tokens:
            return None
        return _with_bound(request, name, left)


def _bound_of(request: Mapping[str, Any]) -> tuple[str, int] | None:
    """Its name and its tokens."""
    found = [(name, request[name]) for name in REPLY_BOUNDS if is_count(request.get(name))]
    return found[0] if found else None


def _with_bound(request: Mapping[str, Any], name: str, tokens: int) -> dict[str, Any]:
    rest = {key: value for key, value in request.items() if key not in REPLY_BOUNDS}
    return {**rest, name: tokens}


def _room_beside(request: Mapping[str, Any], window_tokens: int) -> int:
    """What a window has beside the messages, by our own estimate, which is rather high."""
    prompt = prompt_tokens(str(message.get("content", "")) for message in request["messages"])
    return max(1, window_tokens - prompt, window_tokens // 4)
