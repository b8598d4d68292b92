"""Text from models and jails: cut to a limit, and made such that UTF-8 can hold it."""

from typing import Any


def clip(text: str, limit_chars: int) -> str:
    """Head and tail of a text within the limit, saying how much was cut between them."""
    if len(text) <= limit_chars:
        return text
    head = limit_chars * 2 // 3
    tail = limit_chars - head
    cut = len(text) - head - tail
    return f"{text[:head]}\n… [{cut} characters cut] …\n{text[len(text) - tail :]}"


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
