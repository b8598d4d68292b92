"""Folders with short names: a socket's path ends at 107 bytes."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dst-", ignore_cleanup_errors=True) as name:
        yield Path(name)
