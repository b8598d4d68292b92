"""The staged files: made once, whole, and readable by a jail that has a uid of its own."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.protocol.sandbox_link import JailPlan
from distill.sandbox import cache, plan


@pytest.fixture
def fresh_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not tmp_path, which other users can't enter.
    with tempfile.TemporaryDirectory(prefix="dst-cache-") as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setattr(cache, "_candidates", lambda: [Path(folder) / "distill" / "sandbox"])
        yield Path(folder)


def test_the_first_jail_of_a_machine_is_staged_under_a_tight_umask(fresh_cache: Path) -> None:
    """Keepers inherit the launcher's umask, 077, and one of them is the first to stage."""
    before = os.umask(0o077)
    try:
        found = plan.make()
    finally:
        os.umask(before)
    assert isinstance(found, JailPlan), found
    folders = [path for path in fresh_cache.rglob("*") if path.is_dir()]
    assert len(folders) > 10
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o755}
