"""A question and the text that it is about, and what can't be asked."""

from dataclasses import dataclass
from typing import Any

from distill.errors import InputError
from distill.supervisor.text import printable


@dataclass(frozen=True, slots=True)
class Question:
    """``context`` is a str, list or dict."""

    query: str
    context: Any


def check_question(query: Any, context: Any) -> None:
    """Raise InputError for what is no question, or no text."""
    if not isinstance(query, str) or not query.strip():
        raise InputError("the question is empty")
    if printable(query) != query:
        raise InputError("the question has a lone surrogate: it was not decoded as it was written")
    if not isinstance(context, str | list | dict):
        raise InputError(f"the context must be a str, list or dict, not {type(context).__name__}")
    if not context or (isinstance(context, str) and not context.strip()):
        raise InputError("the context is empty: there is nothing to ask about")
