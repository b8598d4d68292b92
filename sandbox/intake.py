"""A frame's body becomes a message, or is refused before it costs anything.

The one way in for the jail's bytes: walked, then decoded, then held to what no type can say.
"""

from typing import NamedTuple

import msgspec

from distill.protocol.codec import KEEPER_TO_JAIL, Codec
from distill.protocol.errors import RemoteProtocolError
from distill.protocol.jail_link import FRAME_LIMIT_BYTES, Call, Final, FromJail
from distill.protocol.message import Count, Name
from distill.sandbox.scan import scan

WHOLE_LIMIT_BYTES = 8 << 20
"""Of messages that carry no value of the cell's; larger ones are decoded without their values
first, because text can be four times as large here as on the wire."""


class Heard(NamedTuple):
    """A message and its cost: bytes on the wire, values."""

    message: FromJail
    size_bytes: int
    elements: int


class _CallHead(msgspec.Struct, tag_field="type", tag="Call"):
    call: Count
    function: Name


class _FinalHead(msgspec.Struct, tag_field="type", tag="Final"):
    call: Count


_HEADS: Codec[None, _CallHead | _FinalHead] = Codec(_CallHead | _FinalHead, FRAME_LIMIT_BYTES)


def admit(body: bytes | bytearray, call_bytes: int) -> Heard:
    """The message in ``body``. Raises RemoteProtocolError for anything else.

    A Call or Final above ``call_bytes``, which is refused whatever it says, may come back
    without its values.
    """
    shape = scan(body)
    message = _decode(body, call_bytes)
    if not shape.finite and not isinstance(message, Call):
        detail = f"{type(message).__name__} with a float that is not finite"
        raise RemoteProtocolError(detail, peer="jail")
    return Heard(message, len(body), shape.elements)


def _decode(body: bytes | bytearray, call_bytes: int) -> FromJail:
    if len(body) > WHOLE_LIMIT_BYTES:
        head = _head(body)
        if len(body) > call_bytes:
            if isinstance(head, _CallHead):
                return Call(head.call, head.function, (), {})
            return Final(head.call, None)
    return KEEPER_TO_JAIL.decode(body, peer="jail")


def _head(body: bytes | bytearray) -> _CallHead | _FinalHead:
    try:
        return _HEADS.decode(body, peer="jail")
    except RemoteProtocolError as error:
        detail = f"{len(body)} bytes, and no Call or Final: {error.detail}"
        raise RemoteProtocolError(detail, peer="jail") from None
