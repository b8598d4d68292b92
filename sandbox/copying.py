"""Copies of files that a jail may read and nobody may write, named by what went into them."""

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

LAYOUT = 3
"""Part of every key: raise it when the shape of a stage changes."""


def digest(*parts: str) -> str:
    """A key for the cache: the same for the same parts and layout only."""
    return hashlib.sha256("\0".join((str(LAYOUT), *parts)).encode()).hexdigest()[:20]


def stamps(files: Iterable[Path]) -> list[str]:
    """What tells a replaced file from the one before: path, size, time."""
    found = []
    for file in files:
        if file.exists():
            status = file.stat()
            found.append(f"{file}:{status.st_size}:{status.st_mtime_ns}")
    return found


def copy(source: Path, target: Path) -> None:
    """Copy a file's bytes and time (which .pyc files are checked by); nobody may write it."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    shutil.copy2(source, target)
    target.chmod(0o555 if os.access(source, os.X_OK) else 0o444)


def copy_tree(source: Path, target: Path, ignore: Callable[[str, list[str]], set[str]]) -> None:
    """Copy a folder without what ``ignore(folder, names)`` returns."""
    shutil.copytree(source, target, ignore=ignore, ignore_dangling_symlinks=True)
    make_readable(target)


@contextlib.contextmanager
def bytecode_beside_sources() -> Iterator[None]:
    """Compile into the copied tree, also where PYTHONPYCACHEPREFIX names another place."""
    prefix, sys.pycache_prefix = sys.pycache_prefix, None
    try:
        yield
    finally:
        sys.pycache_prefix = prefix


def make_readable(tree: Path) -> None:
    """0755 and 0444 (or 0555) all the way, whatever the umask was."""
    for folder, _, names in os.walk(tree):
        Path(folder).chmod(0o755)
        for name in names:
            file = Path(folder, name)
            file.chmod(0o555 if os.access(file, os.X_OK) and file.suffix == ".so" else 0o444)
