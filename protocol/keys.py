"""The key file of a worker server: what it says, and how it is read.

One small JSON object: the engine's public key, by which the worker knows the engine, and the
worker's own secret one, by which the engine knows the worker. 32 bytes each (Curve25519), in hex.
"""

import os
import stat
from pathlib import Path
from typing import Annotated

import msgspec

Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
KEY_VARIABLE = "DISTILL_FLEET_KEY"
"""The environment variable that may hold a worker key's text instead of a file."""
FILE_LIMIT_BYTES = 4096


class KeyRefused(Exception):
    """A key can't be used; the message says why and what to do."""


class WorkerKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Lets a worker server join the engines of one user."""

    engine_public: Hex
    worker_secret: Hex

    def __repr__(self) -> str:
        """Without the secret: this may stand in a log or a traceback."""
        return f"WorkerKey(engine_public={self.engine_public!r})"

    @property
    def text(self) -> str:
        """As it stands in a file or a variable."""
        return msgspec.json.encode(self).decode()


def worker_key_from(text: str | bytes, source: str) -> WorkerKey:
    """The key that a text holds; ``source`` says whose text. Raises KeyRefused."""
    try:
        return msgspec.json.decode(text, type=WorkerKey)
    except (msgspec.DecodeError, UnicodeError):
        raise KeyRefused(
            f"{source} holds no worker key: it is the file that `distill up --listen` names, whole"
        ) from None


def read_secret(path: Path, limit_bytes: int = FILE_LIMIT_BYTES) -> bytes:
    """A file that nobody else may read. Raises KeyRefused, FileNotFoundError.

    A link is refused, and what is no plain file: whoever may put one there chooses the key.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        why = "it is a link" if path.is_symlink() else error.strerror
        raise KeyRefused(f"{path} can't be used as a key: {why}") from error
    try:
        return _read(file, path, limit_bytes)
    finally:
        os.close(file)


def _read(file: int, path: Path, limit_bytes: int) -> bytes:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise KeyRefused(f"{path} can't be used as a key: it is no plain file")
    if status.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0:
        raise KeyRefused(f"{path} belongs to another user: make a copy of your own")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise KeyRefused(f"{path} can be read by others (mode {mode:04o}). Run: chmod 600 {path}")
    return os.read(file, limit_bytes)


def read_worker_key(path: Path) -> WorkerKey:
    """The key in a file. Raises KeyRefused."""
    try:
        return worker_key_from(read_secret(path), str(path))
    except FileNotFoundError:
        raise KeyRefused(
            f"there is no key file {path}. The engine's machine has it: `distill up --listen` says "
            "where. Copy it, and keep it for yourself: chmod 600"
        ) from None
