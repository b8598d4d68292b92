"""The run directory: sockets and scratch of one driver, gone when the driver is.

It lies under XDG_RUNTIME_DIR or the system's temporary folder, never in the log folder:
socket paths end at 107 bytes, and log folders may be on NFS.
"""

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

from distill.errors import MachineError

SOCKET_PATH_LIMIT_BYTES = 107
LONGEST_SOCKET_NAME = "/sandboxes.sock"
LOCK_NAME = "lock"
LOCK_DELAY_S = 10.0


def base_directory() -> Path:
    """Where run directories lie: XDG_RUNTIME_DIR if it is there, else the temporary folder."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and os.access(runtime, os.W_OK | os.X_OK):
        return Path(runtime)
    return Path(tempfile.gettempdir())


def _prefix() -> str:
    return f"distill-{os.getuid()}-"


def create() -> tuple[Path, int]:
    """A fresh directory of mode 0700 and the descriptor that holds its lock.

    Sweeps stale ones first. Raises MachineError if none can be made.
    """
    base = base_directory()
    sweep(base)
    try:
        path = Path(tempfile.mkdtemp(prefix=_prefix(), dir=base))
        # Locked before it has its name: a sweep never finds it unlocked.
        draft = path / f"{LOCK_NAME}.new"
        lock_fd = os.open(draft, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.rename(path / LOCK_NAME)
    except OSError as error:
        raise MachineError(
            f"no run directory can be made in {base}: {error}. Set TMPDIR to a folder that "
            "you may write to."
        ) from error
    if len(os.fsencode(path)) + len(LONGEST_SOCKET_NAME) > SOCKET_PATH_LIMIT_BYTES:
        shutil.rmtree(path)
        raise MachineError(
            f"{base} is too long a path for sockets (the limit is {SOCKET_PATH_LIMIT_BYTES} "
            "bytes). Set TMPDIR to a shorter one, for example /tmp."
        )
    return path, lock_fd


def living(base: Path | None = None) -> list[Path]:
    """Run directories of this user whose driver lives, the newest first."""
    found = [path for path in _all(base or base_directory()) if _is_locked(path)]
    return sorted(found, key=_modified_s, reverse=True)


def sweep(base: Path) -> list[Path]:
    """Remove the directories whose lock nobody holds; returns them."""
    stale = [path for path in _all(base) if not _is_locked(path)]
    for path in stale:
        shutil.rmtree(path, ignore_errors=True)
    return stale


def _all(base: Path) -> list[Path]:
    """This user's run directories; a link, or somebody else's folder, is none of them."""
    return [
        path
        for path in base.glob(f"{_prefix()}*")
        if not path.is_symlink() and path.is_dir() and _owner(path) == os.getuid()
    ]


def _owner(path: Path) -> int:
    try:
        return path.stat().st_uid
    except FileNotFoundError:
        return -1


def _modified_s(path: Path) -> float:
    """When the folder was last changed; 0 if it has just gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        # It may be just made, its lock still to come.
        return _modified_s(path) > time.time() - LOCK_DELAY_S
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
