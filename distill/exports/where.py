"""``--where``: an expression over documented fields, in Python's words, without Python's powers.

``run.status == "final" and call.output_tokens < 200``. It is parsed by Python's own parser, and
what is not in the tables here is refused; nothing of it is ever handed to ``eval``.
"""

import ast
import functools
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import re2

from distill.errors import InputError
from distill.exports.levels import LEVELS, Level
from distill.exports.values import NAMES, Env

LIMIT_CHARS = 4_000
LIMIT_DEPTH = 100
"""Of what stands in what: a test of a value goes as deep."""
ONE_EQUALS = re.compile(r"(?<![=!<>:])=(?!=)")
Part = Callable[[Env], Any]


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """Nothing is less or more than a field that has no value."""
    return lambda left, right: left is not None and right is not None and compare(left, right)


def _is_in(left: Any, right: Any) -> bool:
    if right is None or (left is None and isinstance(right, str)):
        return False
    return left in right


def _of_numbers(work: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(left: Any, right: Any) -> Any:
        if left is None or right is None:
            return None
        for each in (left, right):
            if not isinstance(each, int | float):
                raise TypeError(f"{type(each).__name__} is no number")
        return work(left, right)

    return apply


@functools.lru_cache(maxsize=64)
def _pattern(text: str) -> Any:
    """A regular expression. Raises ValueError that says what is wrong with it."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(text, options)
    except re2.error as error:
        why = error.args[0]
        told = why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)
        raise ValueError(f"{text!r} is no regular expression of RE2: {told}") from None


def _is_in_it(pattern: Any, text: str) -> bool:
    if not isinstance(pattern, str):
        raise TypeError("a regular expression is a text")
    return bool(_pattern(pattern).search(text))


COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Is: operator.eq,
    ast.IsNot: operator.ne,
    ast.Lt: _ordered(operator.lt),
    ast.LtE: _ordered(operator.le),
    ast.Gt: _ordered(operator.gt),
    ast.GtE: _ordered(operator.ge),
    ast.In: _is_in,
    ast.NotIn: lambda left, right: not _is_in(left, right),
}
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: _of_numbers(operator.add),
    ast.Sub: _of_numbers(operator.sub),
    ast.Mult: _of_numbers(operator.mul),
    ast.Div: _of_numbers(operator.truediv),
}
FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "len": (1, lambda value: 0 if value is None else len(value)),
    "lower": (1, lambda text: None if text is None else str(text).lower()),
    "strip": (1, lambda text: None if text is None else str(text).strip()),
    "matches": (2, lambda text, pattern: text is not None and _is_in_it(pattern, str(text))),
}
"""Name → how many arguments, and what it does. ``matches`` takes linear time on any text."""


@dataclass(frozen=True, slots=True)
class Condition:
    """An expression that was understood; ``level`` is the deepest thing that it asks about.

    ``scorers`` are those that it names; ``asks_score``: it asks for ``run.score``.
    """

    text: str
    level: Level
    scorers: frozenset[str]
    asks_score: bool
    _test: Part

    def __call__(self, env: Env) -> bool:
        """Whether it holds. Raises InputError where the values are not what it takes them for."""
        try:
            return bool(self._test(env))
        except (TypeError, ValueError, ArithmeticError, LookupError) as error:
            run = (env["run"] or {})["run"]
            raise InputError(
                f"--where {self.text!r} can't be said of run {run}: {error}"
            ) from error


def condition(text: str) -> Condition:
    """The condition of an expression. Raises InputError that says what may be written."""
    if len(text) > LIMIT_CHARS:
        raise InputError(f"--where has {len(text):,} characters, of {LIMIT_CHARS:,} at most")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"--where {text!r} is no expression: {_why(text, error)}") from None
    if _depth(tree) > LIMIT_DEPTH:
        raise InputError(f"--where {text[:80]!r}… is nested too deep: {LIMIT_DEPTH} at most")
    reader = _Reader(text)
    test = reader.part(tree.body)
    level: Level = max(reader.levels, key=LEVELS.index, default="run")
    return Condition(text, level, frozenset(reader.scorers), reader.asks_score, test)


def _depth(tree: ast.AST) -> int:
    """Not by recursion, which a deep tree would break."""
    depth, level = 0, [tree]
    while level := [child for node in level for child in ast.iter_child_nodes(node)]:
        depth += 1
    return depth


def _why(text: str, error: Exception) -> str:
    """What is wrong with an expression, in words that name a place in it, if any."""
    if not isinstance(error, SyntaxError):
        return str(error)
    if ONE_EQUALS.search(text):
        return "write == to compare"
    place = "" if error.offset is None else f", at character {error.offset}"
    return f"{error.msg}{place}"


class _Reader:
    """Turns a tree into functions, and notes which levels and scores it asks about."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.levels: set[Level] = set()
        self.scorers: set[str] = set()
        self.asks_score = False

    def part(self, node: ast.expr) -> Part:
        """What this part of the expression comes to."""
        match node:
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(name, arguments)
            case ast.Attribute(value=ast.Name(id=root), attr=name):
                return self._field(root, name)
            case ast.Subscript(value=inner, slice=ast.Constant(value=str() as key)):
                return self._item(inner, key)
            case ast.Compare():
                return self._comparison(node)
            case _:
                return self._joined(node)

    def _joined(self, node: ast.expr) -> Part:
        match node:
            case ast.Constant(value=str() | int() | float() | None as value):
                return lambda _: value
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                parts = [self.part(each) for each in elements]
                return lambda env: [part(env) for part in parts]
            case ast.BoolOp(op=joins, values=values):
                parts = [self.part(each) for each in values]
                decide = all if isinstance(joins, ast.And) else any
                return lambda env: decide(part(env) for part in parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.part(operand)
                return lambda env: not inner(env)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return lambda _: -number
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in ARITHMETIC:
                work, before, after = ARITHMETIC[type(sign)], self.part(left), self.part(right)
                return lambda env: work(before(env), after(env))
            case _:
                raise self._refusal(f"{ast.unparse(node)!r} can't be written here")

    def _comparison(self, node: ast.Compare) -> Part:
        parts = [self.part(each) for each in (node.left, *node.comparators)]
        compare = [COMPARISONS[type(each)] for each in node.ops]

        def compared(env: Env) -> bool:
            values = [part(env) for part in parts]
            pairs = zip(compare, values, values[1:], strict=False)
            return all(holds(left, right) for holds, left, right in pairs)

        return compared

    def _call(self, name: str, arguments: list[ast.expr]) -> Part:
        count, function = FUNCTIONS.get(name, (-1, None))
        if function is None or len(arguments) != count:
            raise self._refusal(f"{name}(…) with {len(arguments)} arguments is no function")
        if name == "matches" and isinstance(given := arguments[1], ast.Constant):
            self._check_pattern(given.value)
        work, parts = function, [self.part(each) for each in arguments]
        return lambda env: work(*(part(env) for part in parts))

    def _check_pattern(self, pattern: Any) -> None:
        """Before anything is read. Raises InputError."""
        try:
            _is_in_it(pattern, "")
        except (TypeError, ValueError) as error:
            raise InputError(f"--where {self._text!r}: {error}") from None

    def _field(self, root: str, name: str) -> Part:
        if root == "score":
            return self._score(name)
        level = next((level for level in LEVELS if level == root), None)
        if level is None:
            raise self._refusal(f"there is no {root!r}")
        if name not in NAMES[level]:
            known = ", ".join(sorted(NAMES[level]))
            raise InputError(f"--where {self._text!r}: {root} has no {name!r}, but {known}")
        self.levels.add(level)
        self.asks_score |= (level, name) == ("run", "score")
        return lambda env: None if (values := env[root]) is None else values[name]

    def _score(self, name: str) -> Part:
        self.levels.add("run")
        self.scorers.add(name)
        return lambda env: (env["score"] or {}).get(name)

    def _item(self, node: ast.expr, key: str) -> Part:
        if isinstance(node, ast.Name) and node.id == "score":
            return self._score(key)
        inner = self.part(node)

        def item(env: Env) -> Any:
            value = inner(env)
            return value.get(key) if isinstance(value, dict) else None

        return item

    def _refusal(self, what: str) -> InputError:
        roots = ", ".join(f"{level}.…" for level in LEVELS)
        functions = ", ".join(f"{name}()" for name in FUNCTIONS)
        return InputError(
            f"--where {self._text!r}: {what}. There are {roots} (a wrong name lists the right "
            f"ones), score.NAME or score['NAME']; {functions}; and or not, == != < <= > >= in, "
            "is None, + - * /"
        )
