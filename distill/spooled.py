"""Texts that can be read only once: standard input, pipes."""

import contextlib
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from distill.errors import InputError
from distill.inputs import STDIN


@contextlib.contextmanager
def spooled(paths: Sequence[str]) -> Iterator[list[str]]:
    """The paths, with what can be read only once (standard input, a pipe) in a file of its own."""
    if STDIN in paths and len(paths) > 1:
        raise InputError("- (standard input) can't be mixed with files")
    with contextlib.ExitStack() as stack:
        yield [_spool(path, stack) if is_stream(path) else path for path in paths]


def is_stream(path: str) -> bool:
    """Whether it can be read only once. Raises InputError: it is a device."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return path == STDIN
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        raise InputError(f"{path} is a device, not a text")
    return path == STDIN or stat.S_ISFIFO(mode)


def _spool(path: str, stack: contextlib.ExitStack) -> str:
    """Copy a stream into a temporary file; its path."""
    name = "standard input" if path == STDIN else path
    if path == STDIN and sys.stdin is None:
        raise InputError("standard input is closed: there is nothing to read")
    opened = sys.stdin.buffer if path == STDIN else Path(path).open("rb")  # noqa: SIM115
    source = stack.enter_context(opened)
    spool = tempfile.NamedTemporaryFile(prefix="distill-", suffix=".txt")  # noqa: SIM115
    file = stack.enter_context(spool)
    shutil.copyfileobj(source, file)
    if file.tell() == 0:
        raise InputError(f"{name} is empty: there is nothing to ask about")
    file.flush()
    return file.name
