"""docs/threat-model.md: every claim names tests, and they are there."""

import ast
import re
from pathlib import Path

import pytest

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


@pytest.fixture
def claims(root: Path) -> list[list[str]]:
    """The cells of each row of the table of claims."""
    text = (root / "docs/threat-model.md").read_text("utf-8")
    table = text.split("## What is claimed")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]


def test_every_claim_is_proved(claims: list[list[str]]) -> None:
    assert len(claims) > 15
    assert not [claim for claim, _, proof in claims if not NAMED.search(proof)]


def test_every_proof_is_there(root: Path, claims: list[list[str]]) -> None:
    for file, name in {found for *_, proof in claims for found in NAMED.findall(proof)}:
        tree = ast.parse((root / file).read_text("utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{file} has no {name}"
