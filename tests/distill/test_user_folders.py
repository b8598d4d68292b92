"""Folders of the user: where the environment says, if it says a place."""

from pathlib import Path

import pytest

from distill.user_folders import cache_folder, config_folder, state_folder


def test_they_lie_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", f"/somewhere/{name}")
    found = [cache_folder(), config_folder(), state_folder()]
    assert found == [Path(f"/somewhere/{n}/distill") for n in ("CACHE", "CONFIG", "STATE")]


@pytest.mark.parametrize("value", ["", "here", "./cache", "~/cache"])
def test_a_relative_folder_counts_as_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_folder() == tmp_path / ".cache" / "distill"
