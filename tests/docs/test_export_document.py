"""docs/export.md is held against the formats: each has its columns and a row there."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from distill.exports.columns import meanings, type_names
from distill.exports.formats import FORMATS
from distill.exports.row import OriginRow

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text("utf-8")
SHORT_CHARS = 80
"""A type that takes more is that of another's format."""


def section(name: str) -> str:
    """What stands under the heading of a format."""
    _, _, after = TEXT.partition(f"\n### `{name}`\n")
    return re.split(r"\n##+ ", after)[0]


def columns_told(text: str) -> list[str]:
    """The lines of a section's table."""
    return [line for line in text.splitlines() if re.match(r"\| `", line)]


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_described(name: str) -> None:
    row, text = FORMATS[name].row, section(name)
    told, types = meanings(row), type_names(row)
    own = [each for each in types if each not in type_names(OriginRow)]
    kinds = {
        each: kind if len(kind) < SHORT_CHARS else "as ATIF has it" for each, kind in types.items()
    }
    assert columns_told(text) == [f"| `{each}` | {kinds[each]} | {told[each]} |" for each in own]
    # The type of a document of another's format is that format's matter, and long.
    examples = re.findall(r"^```text\n(.+?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(examples) == (name != "atif")
    for example in examples:
        shown = json.loads(example)
        assert msgspec.to_builtins(msgspec.convert(shown, row)) == shown


def test_where_a_row_comes_from_is_described() -> None:
    before = TEXT.partition("\n### ")[0].rpartition("\n## The formats")[2]
    told = meanings(OriginRow)
    assert columns_told(before) == [
        f"| `{name}` | {kind} | {told[name]} |" for name, kind in type_names(OriginRow).items()
    ]
