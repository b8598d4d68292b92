"""Text from models and jails: cut to a limit, and made such that UTF-8 can hold it."""

import re
from typing import Any

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""C0 and C1 but for tab and line feed."""


def clip(text: str, limit_chars: int) -> str:
    """Head and tail of a text within the limit, saying how much was cut between them."""
    if len(text) <= limit_chars:
        return text
    head = limit_chars * 2 // 3
    tail = limit_chars - head
    cut = len(text) - head - tail
    return f"{text[:head]}\n… [{cut} characters cut] …\n{text[len(text) - tail :]}"


def visible(text: str) -> str:
    """The text with control characters spelled out: a hostile one must not steer a terminal."""
    return CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


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
