"""One arena for each tier; an attack gets a jail of its own."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.arena import Arena


@pytest.fixture(scope="session")
def namespaces() -> Iterator[Arena]:
    """The tier of namespaces."""
    yield from _arena("namespaces")


@pytest.fixture(scope="session")
def landlock() -> Iterator[Arena]:
    """The tier without namespaces."""
    yield from _arena("landlock")


def _arena(tier: str) -> Iterator[Arena]:
    # Not tmp_path: a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="dst-") as folder:
        arena = Arena(Path(folder), tier)
        yield arena
        arena.close()
