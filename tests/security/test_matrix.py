"""The same attacks as root and as an ordinary user, from a wheel as from the checkout."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox import ordinary

ROOT = Path(__file__).resolve().parents[2]
NOT_SOURCE = (".git", ".venv", "__pycache__", "build", "dist", "runs", "*.egg-info", ".*_cache")
LIMIT_S = 900.0
TIERS = ("test_machine.py", "test_machine_without_namespaces.py")
LEAST = {
    ("root", TIERS[0]): 800,
    ("ordinary", TIERS[0]): 500,
    ("root", TIERS[1]): 300,
    ("ordinary", TIERS[1]): 200,
}
"""Attempts: what only root may do, or take away, is tried as root."""


@pytest.fixture(scope="module")
def from_wheel() -> Iterator[Path]:
    """A folder with what a wheel installs, and the tests, but none of our sources."""
    # Not tmp_path: pytest lets nobody else into it.
    with tempfile.TemporaryDirectory(prefix="distill-wheel-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield _install(Path(name))


def _install(folder: Path) -> Path:
    copy = folder / "source"
    ignore = shutil.ignore_patterns(*NOT_SOURCE, "examples")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignore)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    place = folder / "place"
    (wheel,) = folder.glob("*.whl")
    shutil.unpack_archive(wheel, place, "zip")
    shutil.copytree(copy / "tests", place / "tests")
    shutil.copy(ROOT / "pyproject.toml", place)
    return place


def attacked(place: Path, prefix: tuple[str, ...], file: str, *arguments: str) -> str:
    """What pytest says at the end of the attacks in ``file``, run in this folder."""
    command = (*prefix, sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    ended = subprocess.run(
        [*command, f"tests/security/{file}", *arguments],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]
    return ended.stdout.splitlines()[-1]


def test_as_an_ordinary_user_from_a_wheel(from_wheel: Path) -> None:
    told = attacked(from_wheel, ordinary.prefix(), TIERS[0], "-k", "denied_in_the_jail or honest")
    assert int(told.split()[0]) > 180, told


def test_from_a_wheel(from_wheel: Path) -> None:
    """Staged from a wheel's files: a subset, since nothing else differs."""
    told = attacked(from_wheel, (), TIERS[0], "-k", "(denied_in_the_jail and read) or honest")
    assert int(told.split()[0]) > 20, told


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("install", ["checkout", "wheel"])
@pytest.mark.parametrize("user", ["root", "ordinary"])
def test_every_attack(from_wheel: Path, user: str, install: str, tier: str) -> None:
    """Without a jail, in it, with its layers off, with each alone: all that this user may."""
    if os.geteuid() != 0 and user == "root":
        pytest.skip("only root can become another user")
    prefix = ordinary.prefix() if user == "ordinary" else ()
    told = attacked(ROOT if install == "checkout" else from_wheel, prefix, tier)
    assert int(told.split()[0]) > LEAST[user, tier], told
