"""A row's columns: their types and meanings, for Parquet, for documents, for the card."""

import re
from typing import Any

import msgspec
from msgspec import inspect

from distill.errors import InputError
from distill.exports.row import Row

ATTRIBUTE = re.compile(r"^ *(\w+): (.+?)(?=^ *\w+: |\Z)", re.MULTILINE | re.DOTALL)


def pyarrow() -> Any:
    """The package. Raises InputError where it is not installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "Parquet needs pyarrow: `bin/distill export` brings it, elsewhere pip install "
            "'distill[export]'; or leave out --as parquet"
        ) from error
    return pa


def arrow_schema(row: type[Row]) -> Any:
    """The Arrow schema of a row's class."""
    arrow = pyarrow()
    info: Any = inspect.type_info(row)
    return arrow.schema([_arrow_field(arrow, each) for each in info.fields])


def _arrow_field(arrow: Any, field: inspect.Field) -> Any:
    kind, is_null = _without_none(field.type)
    return arrow.field(field.encode_name, _arrow_type(arrow, kind), nullable=is_null)


def _arrow_type(arrow: Any, kind: inspect.Type) -> Any:
    match kind:
        case inspect.StrType() | inspect.LiteralType():
            return arrow.string()
        case inspect.IntType():
            return arrow.int64()
        case inspect.FloatType():
            return arrow.float64()
        case inspect.BoolType():
            return arrow.bool_()
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return arrow.list_(_arrow_type(arrow, _without_none(item)[0]))
        case inspect.StructType(fields=fields):
            return arrow.struct([_arrow_field(arrow, each) for each in fields])
        case _:
            raise TypeError(f"a column can't be of {kind}")


def _without_none(kind: inspect.Type) -> tuple[inspect.Type, bool]:
    """What a type is but for None, and whether it may be None."""
    if not isinstance(kind, inspect.UnionType):
        return kind, False
    others = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
    if len(others) != 1:
        raise TypeError(f"a column has one type, not {others}")
    return others[0], len(others) < len(kind.types)


def type_names(row: type[Row]) -> dict[str, str]:
    """Each column with its type in words."""
    info: Any = inspect.type_info(row)
    return {field.encode_name: _name(field.type) for field in info.fields}


def _name(kind: inspect.Type) -> str:
    match kind:
        case inspect.UnionType():
            inner, is_null = _without_none(kind)
            return _name(inner) + " or null" * is_null
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return f"[{_name(item)}]"
        case inspect.StructType(fields=fields):
            return (
                "{" + ", ".join(f"{each.encode_name}: {_name(each.type)}" for each in fields) + "}"
            )
        case inspect.LiteralType(values=values):
            return " or ".join(f'"{value}"' for value in values)
        case _:
            return type(kind).__name__.removesuffix("Type").lower()


def meanings(row: type[Row]) -> dict[str, str]:
    """What each column means: the ``Attributes`` of the docstrings, the class's own last."""
    found: dict[str, str] = {}
    for each in reversed(row.__mro__):
        if issubclass(each, msgspec.Struct) and "Attributes:" in (each.__doc__ or ""):
            told = (each.__doc__ or "").partition("Attributes:")[2]
            for name, text in ATTRIBUTE.findall(told):
                found[name] = " ".join(text.split())
    return found
