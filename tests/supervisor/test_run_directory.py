"""The run directory: private, swept when stale, safe while others start and end beside it."""

import os
import tempfile
import time
from pathlib import Path

import pytest

from distill.errors import MachineError
from distill.supervisor import run_directory
from tests.supervisor.processes import python


@pytest.fixture
def base(short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    return short


def test_it_is_private_and_holds_its_lock(base: Path) -> None:
    path, lock = run_directory.create()
    assert path.parent == base
    assert path.stat().st_mode & 0o777 == 0o700
    assert run_directory.living(base) == [path]
    assert run_directory.sweep(base) == []
    os.close(lock)
    assert run_directory.living(base) == []
    assert run_directory.sweep(base) == [path]
    assert not path.exists()


def test_the_next_start_sweeps_what_a_killed_one_left(base: Path) -> None:
    first, lock = run_directory.create()
    (first / "clients.sock").touch()
    os.close(lock)
    second, lock = run_directory.create()
    assert list(base.iterdir()) == [second]
    os.close(lock)


def test_a_directory_that_is_just_made_is_left_alone(base: Path) -> None:
    fresh = Path(tempfile.mkdtemp(prefix=f"distill-{os.getuid()}-", dir=base))
    assert run_directory.sweep(base) == []
    old = time.time() - 60
    os.utime(fresh, (old, old))
    assert run_directory.sweep(base) == [fresh]


def test_nothing_but_our_own_directories_is_swept(base: Path) -> None:
    precious = base / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (base / f"distill-{os.getuid()}-link").symlink_to(precious)
    (base / f"distill-{os.getuid()}-file").touch()
    (base / "distill-notmine").mkdir()
    (base / f"distill-{os.getuid() + 1}-other").mkdir()
    run_directory.sweep(base)
    assert (precious / "file").exists()
    assert len(list(base.iterdir())) == 5


def test_a_missing_runtime_folder_falls_back(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "/nonexistent", str(short / "file")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        assert run_directory.base_directory() == Path(tempfile.gettempdir())


def test_too_long_a_path_says_what_to_do(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = short / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    with pytest.raises(MachineError, match="Set TMPDIR"):
        run_directory.create()
    assert list(long.iterdir()) == []


def test_many_start_and_end_at_once(base: Path) -> None:
    """Nobody's live directory is swept, nobody stumbles over one that vanishes."""
    code = (
        "import os, sys, shutil\n"
        "from pathlib import Path\n"
        "from distill.supervisor import run_directory\n"
        "for _ in range(400):\n"
        "    path, lock = run_directory.create()\n"
        "    run_directory.living()\n"
        "    assert (path / 'lock').exists(), 'swept while it lived'\n"
        "    shutil.rmtree(path)\n"
        "    os.close(lock)\n"
    )
    crowd = [python(code, base) for _ in range(4)]
    errors = [process.communicate(timeout=60)[1] for process in crowd]
    assert [error[-600:] for error in errors if error] == []
