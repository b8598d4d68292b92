"""The folder of staged files: owned by us alone, readable by the jail's uid, never half-made."""

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from distill.user_folders import cache_folder

STALE_S = 30 * 86400.0


class NoCacheError(OSError):
    """No folder can be used; the text has a line for each that was tried."""


def directory() -> Path:
    """The first usable folder, made if need be. Raises NoCacheError."""
    refusals = []
    for path in _candidates():
        try:
            _make_own(path)
        except OSError as error:
            refusals.append(f"{path}: {error.strerror or error}")
        else:
            return path
    raise NoCacheError("; ".join(refusals))


def _candidates() -> list[Path]:
    temporary = Path(tempfile.gettempdir()) / f"distill-cache-{os.geteuid()}" / "sandbox"
    if os.geteuid() == 0:
        # Not under /root, whose mode keeps a jail's own uid out.
        return [Path("/var/cache/distill/sandbox"), temporary]
    return [cache_folder() / "sandbox", temporary]


def _make_own(path: Path) -> None:
    """Make the folder, or check that nobody else can have put anything into it."""
    for folder in (path.parent, path):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o755, parents=True)
            folder.chmod(0o755)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(f"{folder} is not a folder of ours")
        if found.st_mode & 0o022:
            raise PermissionError(f"others can write to {folder}")
    if os.geteuid() == 0:
        for folder in path.parents:
            if not folder.stat().st_mode & stat.S_IXOTH:
                raise PermissionError(f"other users can't enter {folder}")
    if not os.access(path, os.W_OK):
        raise PermissionError(f"{path} can't be written")


def entry(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The folder ``kind-key``; ``build`` fills it the first time, atomically."""
    base = directory()
    final = base / f"{kind}-{key}"
    if final.is_dir():
        with contextlib.suppress(OSError):
            os.utime(final)
        return final
    draft = base / f".draft-{os.getpid()}-{secrets.token_hex(4)}"
    draft.mkdir(mode=0o755)
    try:
        draft.chmod(0o755)
        build(draft)
        for folder, _, _ in os.walk(draft):
            Path(folder).chmod(0o755)  # whatever the umask is: the launcher's keeps others out
        with contextlib.suppress(FileExistsError, OSError):
            draft.rename(final)  # fails if somebody else was faster: theirs is as good
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _sweep(base, kind, keep=final)
    if not final.is_dir():
        raise NoCacheError(f"{final} could not be made")
    return final


def _sweep(base: Path, kind: str, keep: Path) -> None:
    """Remove what has not been used for a month; a running jail's files are younger."""
    for old in [*base.glob(f"{kind}-*"), *base.glob(".draft-*")]:
        with contextlib.suppress(OSError):
            if old != keep and old.stat().st_mtime < time.time() - STALE_S:
                shutil.rmtree(old, ignore_errors=True)
