"""Python in colours: runs of text with a class each, never markup."""

from functools import cache
from typing import Any

LIMIT_CHARS = 200_000
"""Longer code stays plain: a lexer is regular expressions, and the code is a stranger's."""
CLASSES = (
    ("Keyword", "k"),
    ("Operator.Word", "k"),
    ("Literal.String", "s"),
    ("Literal.Number", "n"),
    ("Comment", "c"),
    ("Name.Builtin", "b"),
    ("Name.Function", "f"),
    ("Name.Class", "f"),
    ("Name.Decorator", "f"),
    ("Name.Exception", "b"),
)
Pieces = list[tuple[str, str]]
"""Class and text; together they are the code."""


def python_pieces(code: str) -> Pieces:
    """The code in pieces, each with its class: ``""`` for what is plain."""
    if len(code) > LIMIT_CHARS:
        return [("", code)]
    from pygments.lexers.python import PythonLexer

    lexer = PythonLexer(stripnl=False, ensurenl=False)
    pieces: Pieces = []
    for _, kind, text in lexer.get_tokens_unprocessed(code):
        name = _class_of(kind)
        if pieces and pieces[-1][0] == name:
            pieces[-1] = (name, pieces[-1][1] + text)
        else:
            pieces.append((name, text))
    return pieces


@cache
def _class_of(kind: Any) -> str:
    words = str(kind).removeprefix("Token.")
    return next((short for begin, short in CLASSES if words.startswith(begin)), "")
