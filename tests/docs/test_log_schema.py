"""docs/log-schema.md and distill/schema/*.json say what distill.traces.records says."""

import json
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from distill.traces import records

DOCUMENT = "log-schema.md"
COMMON = frozenset({"v", "t", "run", "producer"})
SCHEMAS = {log: log.replace(".jsonl", ".schema.json") for log in records.LOG_RECORDS}


def structs() -> Iterator[type[msgspec.Struct]]:
    """Every record, and every part of one."""
    for found in vars(records).values():
        is_ours = isinstance(found, type) and issubclass(found, records.Record | records.Part)
        if is_ours and found not in (records.Record, records.Part):
            yield found


def kind(struct: type[msgspec.Struct]) -> str:
    """How a record is called in its ``type``, and a part in the code."""
    is_record = issubclass(struct, records.Record)
    return str(struct.__struct_config__.tag) if is_record else struct.__name__


@pytest.fixture
def text(root: Path) -> str:
    return (root / "docs" / DOCUMENT).read_text("utf-8")


def test_version(text: str) -> None:
    assert f"This is version {records.SCHEMA_VERSION} of the schema." in text


def test_every_struct_has_a_heading_and_every_heading_a_struct(text: str) -> None:
    headings = re.findall(r"^### `(\w+)`$", text, re.MULTILINE)
    assert sorted(headings) == sorted(map(kind, structs()))


@pytest.mark.parametrize("struct", list(structs()), ids=lambda struct: struct.__name__)
def test_fields(
    struct: type[msgspec.Struct],
    tables_of: Callable[[str], dict[str, list[list[str]]]],
    code_fields: Callable[..., dict[str, tuple[str, str]]],
    document_fields: Callable[..., dict[str, tuple[str, str]]],
) -> None:
    in_code = code_fields(struct, COMMON if issubclass(struct, records.Record) else frozenset())
    assert document_fields(tables_of(DOCUMENT)[kind(struct)]) == in_code


def test_common_fields(
    tables_of: Callable[[str], dict[str, list[list[str]]]],
    code_fields: Callable[..., dict[str, tuple[str, str]]],
    document_fields: Callable[..., dict[str, tuple[str, str]]],
) -> None:
    in_code = {name: code_fields(records.Event)[name] for name in COMMON}
    assert document_fields(tables_of(DOCUMENT)["Fields of every record"]) == in_code


@pytest.mark.parametrize("log", list(records.LOG_RECORDS))
def test_which_log_holds_which_records(
    log: str, tables_of: Callable[[str], dict[str, list[list[str]]]]
) -> None:
    rows = tables_of(DOCUMENT)["The files"][1:]
    said = next(cells[1] for cells in rows if cells[0] == f"`{log}`")
    in_code = [kind(record) for record in typing.get_args(records.LOG_RECORDS[log])]
    assert re.findall(r"`(\w+)`", said) == in_code


def test_examples_are_valid_records(text: str) -> None:
    lines = [line for line in text.splitlines() if line.startswith('{"type"')]
    assert lines
    for line in lines:
        msgspec.json.decode(line, type=records.AnyRecord)


# -- the schema files


def test_schema_files_are_as_the_code_has_them(root: Path, tmp_path: Path) -> None:
    script = root / "docs" / "rebuild_schema.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, cwd=root)
    for name in SCHEMAS.values():
        fresh = (tmp_path / name).read_text("utf-8")
        stored = (root / "distill" / "schema" / name).read_text("utf-8")
        assert stored == fresh, "run: python docs/rebuild_schema.py"
    assert {file.name for file in (root / "distill" / "schema").iterdir()} == set(SCHEMAS.values())


def schema_of(root: Path, log: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((root / "distill" / "schema" / SCHEMAS[log]).read_text())
    return schema


@pytest.mark.parametrize("log", list(SCHEMAS))
def test_schema_files_are_valid_schemas(root: Path, log: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema_of(root, log))


def test_schema_takes_what_is_a_record_and_nothing_else(root: Path) -> None:
    event = records.Event(
        t=0.5, run=None, producer=records.Producer("driver", "driver", 1), event="driver_started"
    )
    line = msgspec.to_builtins(event)
    for log in SCHEMAS:
        check = jsonschema.Draft202012Validator(schema_of(root, log))
        assert check.is_valid(line)
        assert check.is_valid({**line, "a_field_of_a_later_minor_change": 1})
        assert not check.is_valid({**line, "type": "unheard_of"})
        assert not check.is_valid({**line, "producer": None})
