"""Lone surrogates: text that Python can hold and UTF-8 can't, as models and jails may send."""

from typing import Any


def printable(text: str) -> str:
    """The text with lone surrogates replaced by ``?``."""
    return text.encode("utf-8", "replace").decode("utf-8")


def printable_json(value: Any) -> Any:
    """A JSON-like value with every text in it printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(key)): printable_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [printable_json(item) for item in value]
    return value
