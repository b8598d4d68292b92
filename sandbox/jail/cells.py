"""A cell: compiled, run, its last expression shown, its exception told as a notebook would."""

from __future__ import annotations

import _ast
import os
import sys

from distill.sandbox.jail import limits
from distill.sandbox.jail.confine import SCRATCH
from distill.sandbox.jail.host import Finished
from distill.sandbox.jail.wire import printable

TYPE_CHECKING = False  # importing typing would double the time to start
if TYPE_CHECKING:
    from types import CodeType, TracebackType
    from typing import Any

    from distill.sandbox.jail.wire import Wire

ONLY_AST = 0x400
"""PyCF_ONLY_AST: a syntax tree without importing ``ast``."""
TEXT_LIMIT = 60_000
"""Characters of a message or a traceback; the wire allows 64 Ki."""
LINE_LIMIT = 1 << 31
OWN_FILES = os.path.dirname(__file__)  # noqa: PTH120  (pathlib costs 10 ms to import)
FROZEN = "<frozen "


class Cells:
    """The session's cells: their sources, and the namespace that they share."""

    def __init__(self, namespace: dict[str, Any], limits: Wire) -> None:
        self._namespace = namespace
        self._limits = limits
        self._sources: dict[str, str] = {}

    def run(self, number: int, code: str) -> Wire | None:
        """Run one cell; the error that ended it, None if it ended well (FINAL is well)."""
        name = f"Cell {number}"
        self._sources[name] = code
        try:
            self._execute(name, code)
        except Finished:
            return None
        except BaseException as error:  # noqa: BLE001  (whatever a cell raises ends the cell only)
            return self._describe(error, name)
        return None

    def _execute(self, name: str, code: str) -> None:
        body, last = _split(code, name)
        if body is not None:
            exec(body, self._namespace)  # noqa: S102  (this is what the jail is for)
        if last is not None:
            value = eval(last, self._namespace)  # noqa: S307
            if value is not None:
                self._namespace["_"] = value
                sys.stdout.write(repr(value) + "\n")

    def remember_sources(self) -> None:
        """Let ``linecache``, and so every traceback, find the cells' lines."""
        import linecache

        for name, code in self._sources.items():
            if name not in linecache.cache:
                lines = [line + "\n" for line in code.split("\n")]
                linecache.cache[name] = (len(code), None, lines, name)

    def format(self, error: BaseException) -> str:
        """The traceback's text, without frames of ours: ``Cell 3, line 2, in f``.

        A last line names the limit that was hit, if one was.
        """
        import re
        import traceback

        self.remember_sources()
        told = traceback.TracebackException.from_exception(error, compact=True)
        _drop_own_frames(told)
        text = "".join(told.format())
        text = re.sub(r'File "(Cell \d+)", line', r"\1, line", text)
        return _shortened(printable(text)) + self._limit_hit(error)

    def _limit_hit(self, error: BaseException) -> str:
        told = limits.hit(error, self._limits, SCRATCH)
        return "" if told is None else f"{told}\n"

    def _describe(self, error: BaseException, name: str) -> Wire:
        try:
            traceback = self.format(error)
        except BaseException as failure:  # noqa: BLE001  (a hostile __str__, or no memory left)
            traceback = f"{type(error).__name__} (no traceback: {type(failure).__name__})\n"
            traceback += self._limit_hit(error)
        described: Wire = {
            "name": printable(type(error).__name__)[:200],
            "message": _message(error),
            "traceback": traceback,
        }
        line = _line(error, name)
        return described if line is None else {**described, "line": line}


def _split(code: str, name: str) -> tuple[CodeType | None, CodeType | None]:
    """The cell's statements, and its last expression if it ends in one."""
    tree = compile(code, name, "exec", flags=ONLY_AST, dont_inherit=True)
    last = None
    if tree.body and isinstance(tree.body[-1], _ast.Expr):
        expression = _ast.Expression(tree.body.pop().value)
        last = compile(expression, name, "eval", dont_inherit=True)
    if not tree.body:
        return None, last
    return compile(tree, name, "exec", dont_inherit=True), last


def _message(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"the cell called sys.exit({error.code!r}): that ends the cell, not the session"
    try:
        return _shortened(printable(str(error)))
    except BaseException as failure:  # noqa: BLE001  (a hostile __str__)
        return f"(its text can't be had: {type(failure).__name__})"


def _line(error: BaseException, name: str) -> int | None:
    """The innermost line of this cell that the error passed."""
    if isinstance(error, SyntaxError) and error.filename == name:
        # A cell can raise its own, with a line of any type and size.
        line = error.lineno
        return line if type(line) is int and 0 <= line <= LINE_LIMIT else None
    found = None
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == name:
            found = trace.tb_lineno
        trace = trace.tb_next
    return found


def _drop_own_frames(told: Any) -> None:
    seen = [told]
    for one in seen:
        one.stack[:] = [frame for frame in one.stack if not frame.filename.startswith(OWN_FILES)]
        linked = (one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ()))
        seen += [other for other in linked if other is not None]


def _shortened(text: str) -> str:
    if len(text) <= TEXT_LIMIT:
        return text
    half = TEXT_LIMIT // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
