"""The CURVE keys of this user's engines: made when first needed, kept from others.

::

    ~/.config/distill/keys/     0700
      engine.key                0600  the secret by which engines prove who they are
      worker.key                0600  what a worker server needs to join: copy it
      allowed-workers           0600  the public keys that may join, one a line; a line less is a
                                      worker less

All engines of a user share them, so where the home folder is shared, so are the keys. A second
``worker.key`` is made when the first has been moved away (to the one machine that it is for): each
can be struck off the list by itself.
"""

import os
import secrets
import stat
import tempfile
from pathlib import Path

import msgspec

from distill.errors import InputError
from distill.protocol.keys import (
    Hex,
    KeyRefused,
    WorkerKey,
    read_secret,
    read_worker_key,
)
from distill.protocol.sockets import ServerKeys, public_key
from distill.user_folders import config_folder, make_private

ENGINE_FILE = "engine.key"
WORKER_FILE = "worker.key"
ALLOWED_FILE = "allowed-workers"
ALLOWED_LIMIT_BYTES = 1 << 20


class EngineKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The engines' secret."""

    engine_secret: Hex


def folder() -> Path:
    """Where the keys of this user lie."""
    return config_folder() / "keys"


def worker_key_path() -> Path:
    """The file that a worker server needs."""
    return folder() / WORKER_FILE


def server_keys() -> ServerKeys:
    """The engine's side, with all files made that were missing.

    Raises InputError if they can't be made, or if others could have changed or read them.
    """
    try:
        place = folder()
        _make_folder(place)
        secret = _engine_secret(place)
        _make_worker_key(place, secret)
        return ServerKeys(secret, _AllowList(place / ALLOWED_FILE).allows)
    except (KeyRefused, OSError) as error:
        raise InputError(f"the keys for --listen can't be used: {error}") from error


def _make_folder(place: Path) -> None:
    make_private(place)
    status = place.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise KeyRefused(
            f"{place} is open to others (owner {status.st_uid}, mode "
            f"{stat.S_IMODE(status.st_mode):04o}). It must be yours alone: chmod 700 {place}"
        )


def _engine_secret(place: Path) -> bytes:
    path = place / ENGINE_FILE
    if not os.path.lexists(path):
        key = EngineKey(secrets.token_bytes(32).hex())
        _write_once(path, msgspec.json.encode(key))
    try:
        known = msgspec.json.decode(read_secret(path), type=EngineKey)
    except msgspec.DecodeError:
        raise KeyRefused(f"{path} holds no key. Remove it, and worker.key beside it") from None
    return bytes.fromhex(known.engine_secret)


def _make_worker_key(place: Path, engine_secret: bytes) -> None:
    path = place / WORKER_FILE
    engine = public_key(engine_secret).hex()
    if not os.path.lexists(path):
        secret = secrets.token_bytes(32)
        # First on the list: a key that is there is one that is let in, until its line goes.
        _allow(place / ALLOWED_FILE, public_key(secret))
        _write_once(path, WorkerKey(engine, secret.hex()).text.encode())
    if read_worker_key(path).engine_public != engine:
        raise KeyRefused(f"{path} is for another {ENGINE_FILE}. Remove it: a new one is made")


def _allow(path: Path, public: bytes) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.write(f"{public.hex()}\n".encode())


def _write_once(path: Path, content: bytes) -> None:
    """The whole file or none, and never over another: two engines may start at once."""
    draft_fd, draft = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with open(draft_fd, "wb") as file:
            file.write(content + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        Path(draft).unlink()


class _AllowList:
    """The file of those who may join, read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: frozenset[bytes] = frozenset()

    def allows(self, public: bytes) -> bool:
        """Whether this key stands in the file; if that can't be read, no key does."""
        try:
            status = self._path.lstat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                self._keys = _listed(read_secret(self._path, ALLOWED_LIMIT_BYTES))
                self._stamp = stamp
        except (KeyRefused, OSError):
            self._keys, self._stamp = frozenset(), None
        return public in self._keys


def _listed(content: bytes) -> frozenset[bytes]:
    """The keys of a list; what follows a key on its line, and other lines, are for people."""
    keys = set()
    for line in content.decode("utf-8", "replace").splitlines():
        word = line.split(maxsplit=1)[0] if line.strip() else ""
        try:
            keys.add(msgspec.convert(word, Hex))
        except msgspec.ValidationError:
            continue
    return frozenset(bytes.fromhex(key) for key in keys)
