"""The base of every message, and the values that several links share."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

MIB = 1 << 20

Text = Annotated[str, msgspec.Meta(max_length=64 * MIB)]
"""Text of a size that a link's frame cap bounds anyway."""
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
"""An id or a name: short, never empty."""
Short = Annotated[str, msgspec.Meta(max_length=256)]
"""A word that somebody else has chosen, shortened; may be empty."""
Detail = Annotated[str, msgspec.Meta(max_length=64 * 1024)]
"""A sentence for a person, or a traceback."""
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Json = Any
"""A JSON-like value: None, bool, int, float, str, list, dict with str keys."""

Record = Literal["off", "ids", "ids+logprobs"]
"""How much of a completion is logged beside its text."""


class Message(
    msgspec.Struct,
    frozen=True,
    tag_field="type",
    tag=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
):
    """A tagged map on the wire: ``{"type": "ClassName", field: value, …}``."""


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A part of a message, not sent alone. Plain data, in no cycle: the garbage collector, which
    runs by the number of objects it has to look at, need not.
    """


Transitions = Mapping[str, Mapping[type[Message], str]]
"""A legal conversation: state → message → next state, whoever sends it."""


class Welcome(Message, frozen=True):
    """The driver accepts a peer; nothing else is sent to it before this."""

    protocol: int
    heartbeat_s: Seconds


class LogRecords(Message, frozen=True):
    """Structured events of a process, on their way to the one writer."""

    records: Annotated[tuple[dict[str, Json], ...], msgspec.Meta(max_length=1024)]

    def __post_init__(self) -> None:
        """Raise ValueError (of a peer's: RemoteProtocolError) for what a log can't hold.

        MessagePack has maps whose keys are lists, or nil; JSON has none.
        """
        try:
            msgspec.json.encode(self.records)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"a record that JSON can't hold: {error}") from error


class Shutdown(Message, frozen=True):
    """The driver asks a peer to finish at once; the launcher kills it soon after."""
