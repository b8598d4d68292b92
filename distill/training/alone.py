"""One process at a time at work in a folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from distill.errors import InputError
from distill.user_folders import make_private

FILE = ".lock"


@contextlib.contextmanager
def alone(out: Path, what: str) -> Iterator[None]:
    """Hold ``out``, which is made if need be, against another ``what``.

    The lock is the kernel's: it goes with its process, however that ends. Raises InputError where
    there is another one, or where the folder can't be made.
    """
    try:
        make_private(out)
        lock = os.open(out / FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InputError(f"{out} can't be made: {error.strerror or error}") from error
    with os.fdopen(lock):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another {what} is at work in {out}: wait for its end") from error
        yield
