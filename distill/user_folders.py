"""Where a user's files lie, as the XDG Base Directory Specification has it.

https://specifications.freedesktop.org/basedir-spec/latest/
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


def cache_folder() -> Path:
    """What can be made again: ``~/.cache/distill``."""
    return _base("XDG_CACHE_HOME", ".cache") / "distill"


def config_folder() -> Path:
    """Settings and keys: ``~/.config/distill``."""
    return _base("XDG_CONFIG_HOME", ".config") / "distill"


def state_folder() -> Path:
    """Logs, if nobody says where: ``~/.local/state/distill``."""
    return _base("XDG_STATE_HOME", ".local/state") / "distill"


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are not there, for their owner alone.

    Whatever the umask is; folders that are there stay as they are. Raises OSError.
    """
    if not folder.parent.exists():
        make_private(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, if it is new. Raises OSError."""
    flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)


@contextlib.contextmanager
def all_private() -> Iterator[None]:
    """Whatever this process makes meanwhile, in libraries too, is for its owner alone."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _base(variable: str, otherwise: str) -> Path:
    """A relative path there would be another folder for each process: it counts as none."""
    base = Path(os.environ.get(variable, ""))
    return base if base.is_absolute() else Path.home() / otherwise
