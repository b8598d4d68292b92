"""Frames and values, this side of the wall: 4 bytes of length, one MessagePack map.

The other side is ``distill.protocol.jail_link``; golden vectors hold the two together.
"""

from __future__ import annotations

import msgpack

TYPE_CHECKING = False  # importing typing would double the time to start
if TYPE_CHECKING:
    from typing import Any

    Wire = dict[str, Any]


HEADER_BYTES = 4
FRAME_LIMIT_BYTES = 64 << 20
BIG_INT_EXT = 1
BIG_INT_DIGITS = 4300
ELEMENT_LIMIT = 1_000_000
"""Values in one message, a dict's keys counted; the host kills a jail that sends more."""
ENVELOPE_ELEMENTS = 100
"""Of a message, around the cell's own values."""
DEPTH_LIMIT = 100
"""Nesting of a value; the host takes no more."""


_INFINITE = float("inf")


def pack(message: Wire) -> bytes:
    """A frame. Raises ValueError if it is over the limit."""
    body: bytes = msgpack.packb(message, use_bin_type=True)
    if len(body) > FRAME_LIMIT_BYTES:
        raise ValueError(f"{len(body)} bytes in one message, the limit is {FRAME_LIMIT_BYTES}")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def unpack(body: bytes | bytearray | memoryview) -> Wire:
    """The message in a frame's body."""
    message: Wire = msgpack.unpackb(body, strict_map_key=False, ext_hook=_extension)
    return message


def _extension(code: int, data: bytes) -> Any:
    return int(data) if code == BIG_INT_EXT else msgpack.ExtType(code, data)


def printable(text: str) -> str:
    """``text`` with what UTF-8 can't carry (lone surrogates) replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def to_wire(value: Any, path: str, depth: int = 0) -> Any:
    """``value`` as the wire carries it: None, bool, int, float, str, list and dict.

    ``path`` is how the value is named in errors: TypeError for a type that is not JSON-like,
    ValueError for text with lone surrogates, too long an integer, or too deep a nesting.
    """
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, int):
        return _integer(value, path)
    if depth >= DEPTH_LIMIT:
        raise ValueError(f"{path} is nested more than {DEPTH_LIMIT} deep")
    if isinstance(value, list | tuple):
        return [to_wire(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {
            _key(key, path): to_wire(item, f"{path}[{key!r}]", depth + 1)
            for key, item in value.items()
        }
    raise TypeError(
        f"{path} is of type {type(value).__name__}; it can be None, bool, int, float, str, list, "
        "tuple or dict (with str keys)"
    )


def count(values: list[Any] | dict[str, Any]) -> int:
    """How many values are in ``values``, at any depth, as the host counts them."""
    inner = values
    found = len(values)
    if isinstance(values, dict):
        inner = list(values.values())
        found *= 2
    return found + sum(count(item) for item in inner if isinstance(item, list | dict))


def check_count(values: list[Any], path: str) -> None:
    """Raises ValueError for more than one message carries."""
    found = count(values)
    if found > ELEMENT_LIMIT - ENVELOPE_ELEMENTS:
        raise ValueError(f"{path} holds {found} values; the limit is {ELEMENT_LIMIT} in one call")


def check_finite(value: Any, path: str) -> None:
    """Raises TypeError for nan and inf, which JSON does not have. ``value`` is ``to_wire``'s."""
    if isinstance(value, float) and not -_INFINITE < value < _INFINITE:
        raise TypeError(f"{path} is {value}; it can hold finite numbers only")
    if isinstance(value, list):
        for i, item in enumerate(value):
            check_finite(item, f"{path}[{i}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            check_finite(item, f"{path}[{key!r}]")


def _key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{path} has the key {key!r} of type {type(key).__name__}; keys are str")
    return _text(key, f"a key of {path}")


def _text(text: str, path: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{path} holds a lone surrogate, {text[error.start]!r} at {error.start}: it is not "
                "text. Use .encode('utf-8', 'replace').decode() to replace such characters"
            ) from None
    return text


def _integer(value: int, path: str) -> Any:
    if -(1 << 63) <= value < 1 << 64:
        return int(value)
    try:
        digits = str(value).encode()
    except ValueError:  # over CPython's own limit, unless the cell has raised that
        digits = b"9" * (BIG_INT_DIGITS + 1)
    if len(digits) > BIG_INT_DIGITS:
        raise ValueError(f"{path} is an integer of more than {BIG_INT_DIGITS} digits")
    return msgpack.ExtType(BIG_INT_EXT, digits)
