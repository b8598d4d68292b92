"""The texts of a context: a str is one, a list or dict holds any number."""

from collections.abc import Iterable
from typing import Any


def texts_of(context: Any) -> Iterable[tuple[str | None, str]]:
    """The texts of a context with their index or key; a plain text has None."""
    if isinstance(context, str):
        yield None, context
        return
    items = context.items() if isinstance(context, dict) else enumerate(context)
    for key, value in items:
        if isinstance(value, str):
            yield str(key), value
        elif isinstance(value, list | dict):
            for inner, text in texts_of(value):
                yield f"{key}/{inner}", text
