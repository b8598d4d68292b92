"""What the namespace holds, told without running a line of the cell's own code.

A ``__repr__`` of the model's could hang or print; so only values of built-in types are shown,
shortened, and of all others the type's name.
"""

from __future__ import annotations

from distill.sandbox.jail.wire import printable

TYPE_CHECKING = False  # importing typing would double the time to start
if TYPE_CHECKING:
    from typing import Any

    from distill.sandbox.jail.wire import Wire

COUNT_LIMIT = 2000
REPR_LIMIT = 120
NAME_LIMIT = 200
SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset)
INTEGER_BITS = 256
BRACKETS: dict[type, str] = {list: "[]", tuple: "()", set: "{}", frozenset: "{}"}


def describe(namespace: dict[Any, Any], hidden: dict[str, Any]) -> list[Wire]:
    """Names, types, short reprs and lengths, in the order of definition.

    ``hidden`` are the names that were put there by us; one that was changed is shown.
    """
    found = []
    for name, value in list(namespace.items()):
        own = name in hidden and hidden[name] is value
        if own or type(name) is not str or name.startswith("_"):
            continue
        found.append(_variable(name, value))
    return found[:COUNT_LIMIT]


def _variable(name: str, value: Any) -> Wire:
    told: Wire = {
        "name": printable(name)[:NAME_LIMIT],
        "type": printable(type(value).__name__)[:NAME_LIMIT],
        "repr": printable(_short(value, 2))[:REPR_LIMIT],
    }
    if type(value) in SIZED:
        told["size"] = len(value)
    return told


def _short(value: Any, depth: int) -> str:
    kind = type(value)
    if value is None or kind in (bool, float, complex):
        return repr(value)
    if kind is int:
        bits = value.bit_length()
        return repr(value) if bits <= INTEGER_BITS else f"<int of {bits} bits>"
    if kind in (str, bytes, bytearray):
        return repr(value[:REPR_LIMIT])
    if kind is dict:
        inner = ", ".join(
            f"{_short(k, depth - 1)}: {_short(v, depth - 1)}"
            for k, v in _first(value.items(), depth)
        )
        return f"{{{inner}}}"
    if kind in BRACKETS:
        inner = ", ".join(_short(item, depth - 1) for item in _first(value, depth))
        return f"{BRACKETS[kind][0]}{inner}{BRACKETS[kind][1]}"
    return f"<{kind.__name__}>"


def _first(items: Any, depth: int) -> list[Any]:
    found: list[Any] = []
    if depth > 0:
        for item in items:
            found.append(item)
            if len(found) == 8:
                break
    return found
