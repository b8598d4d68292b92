"""Reading the documents, and telling the code's structs in the documents' words."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect as inspect
import pytest

ROOT = Path(__file__).resolve().parents[2]
Fields = dict[str, tuple[str, str]]
"""Field → (type, default) as both sides write them."""
Tables = dict[str, list[list[str]]]
"""Heading → the rows of the tables below it, up to the next heading."""

NAMED_TEXTS: dict[tuple[int | None, int | None], str] = {
    (1, 256): "name",
    (None, 256): "short",
    (None, 64 << 20): "text",
    (None, 64 << 10): "detail",
}


def type_words(kind: inspect.Type) -> str:
    """A type as the documents write it."""
    match kind:
        case inspect.StrType():
            return NAMED_TEXTS.get((kind.min_length, kind.max_length), "str")
        case inspect.IntType():
            return "count" if kind.ge == 0 else _bounded("int", kind)
        case inspect.FloatType():
            return _bounded("float", kind)
        case inspect.LiteralType():
            return " or ".join(json.dumps(value) for value in sorted(kind.values, key=str))
        case inspect.UnionType():
            return " or ".join(type_words(one) for one in kind.types)
        case inspect.VarTupleType() | inspect.ListType():
            most = f", {kind.max_length} at most" if kind.max_length else ""
            return f"[{type_words(kind.item_type)}]{most}"
        case inspect.DictType():
            return f"{{{type_words(kind.key_type)}: {type_words(kind.value_type)}}}"
        case inspect.StructType():
            return kind.cls.__name__
    simple = {"AnyType": "json", "BoolType": "bool", "BytesType": "bytes", "NoneType": "null"}
    return simple[type(kind).__name__]


def _bounded(name: str, kind: inspect.IntType | inspect.FloatType) -> str:
    bounds = (("≥", kind.ge), (">", kind.gt), ("≤", kind.le), ("<", kind.lt))
    words = [f"{sign} {bound:g}" for sign, bound in bounds if bound is not None]
    return " ".join([name, " and ".join(words)]) if words else name


def field_table(struct: type[msgspec.Struct], leave_out: frozenset[str] = frozenset()) -> Fields:
    """A struct's fields, in the documents' words."""
    info: Any = inspect.type_info(struct)
    return {
        field.encode_name: (type_words(field.type), _default(field))
        for field in info.fields
        if field.encode_name not in leave_out
    }


def _default(field: inspect.Field) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        return json.dumps(field.default_factory())
    if field.default is msgspec.NODEFAULT:
        return "required"
    default = field.default
    return json.dumps(msgspec.to_builtins(default), ensure_ascii=False)


def read_tables(document: str) -> Tables:
    """The tables of a document by the heading (of any level) that they stand under."""
    tables: Tables = {}
    heading = ""
    for line in (ROOT / "docs" / document).read_text("utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("#").strip().strip("`")
            assert heading not in tables, f"{document} has two headings {heading!r}"
            tables[heading] = []
        elif line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line):
            tables[heading].append([cell.strip() for cell in line.strip("|").split("|")])
    return tables


def documented_fields(rows: list[list[str]]) -> Fields:
    """The rows of a table of fields: name, type, default, meaning (which must be there)."""
    found: Fields = {}
    for cells in rows:
        if cells[0] == "Field":
            continue
        name, kind, default, meaning = (cell.replace("`", "") for cell in cells)
        assert meaning, f"{name} has no meaning"
        assert name not in found, f"{name} stands twice"
        found[name] = (kind, default)
    return found


@pytest.fixture
def code_fields() -> Callable[..., Fields]:
    """The fields of a struct of the code."""
    return field_table


@pytest.fixture
def document_fields() -> Callable[[list[list[str]]], Fields]:
    """The fields of a table of a document."""
    return documented_fields


@pytest.fixture
def tables_of() -> Callable[[str], Tables]:
    """The tables of a document under ``docs/``."""
    return read_tables


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT
