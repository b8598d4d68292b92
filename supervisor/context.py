"""The context's memory file: written once, sealed, and mapped by the jails of all runs about it."""

import contextlib
import copy
import fcntl
import os
from typing import Any, Self

from distill.errors import SandboxError
from distill.protocol.jail_link import ContextKind
from distill.supervisor.journal import encode_context

F_ADD_SEALS = 1033
ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8
"""F_SEAL_SEAL, _SHRINK, _GROW and _WRITE of linux/fcntl.h."""
CHUNK = 1 << 20
"""Characters or bytes that are copied at a time: the text is never held twice."""
WIDE_KINDS: tuple[tuple[ContextKind, str, int], ...] = (
    ("latin-1", "latin-1", 1),
    ("ucs2", "utf-16-le", 2),
    ("ucs4", "utf-32-le", 4),
)
"""Kind, the codec that writes it, bytes a character; the narrowest first."""


class ContextFile:
    """A str in the form that CPython keeps it in (PEP 393), a list or dict as JSON.

    Made in a thread: it takes about a second for a gigabyte. Raises InputError for what is no
    context, SandboxError where the memory is not to be had.
    """

    def __init__(self, context: Any) -> None:
        try:
            self._make(context)
        except OSError as error:
            raise SandboxError(f"the context can't be put into memory: {error}") from error

    def _make(self, context: Any) -> None:
        draft = os.memfd_create("context", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            self.kind: ContextKind = _write(draft, context)
            self.size_bytes = os.fstat(draft).st_size
            fcntl.fcntl(draft, F_ADD_SEALS, ALL_SEALS)
            # For reading only: before Linux 6.7 a sealed file that is open for writing can't be
            # mapped shared, not even to be read.
            self._fd = os.open(f"/proc/self/fd/{draft}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(draft)

    def fileno(self) -> int:
        """The descriptor, open for reading."""
        return self._fd

    def again(self) -> Self:
        """Another descriptor of the same memory, to be closed by itself."""
        twin = copy.copy(self)
        twin._fd = os.dup(self._fd)  # noqa: SLF001  (one of its own kind)
        return twin

    def close(self) -> None:
        """Let go of it; a jail that has mapped it keeps the memory. It may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write(fd: int, context: Any) -> ContextKind:
    if not isinstance(context, str):
        _, data, _ = encode_context(context)
        _put(fd, data)
        return "json"
    if context.isascii():
        _write_characters(fd, context, "ascii", 1)
        return "ascii"
    for kind, codec, width in WIDE_KINDS:
        with contextlib.suppress(UnicodeError):
            _write_characters(fd, context, codec, width)
            return kind
    # What no codec takes has a lone surrogate, and is refused as it is by the journal.
    _, _, _ = encode_context(context)
    raise AssertionError("a str with neither codec nor lone surrogate")


def _write_characters(fd: int, text: str, codec: str, width: int) -> None:
    """Write all of it and a zero. Raises UnicodeError at a character that is wider."""
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    for start in range(0, len(text), CHUNK):
        part = text[start : start + CHUNK]
        data = part.encode(codec)
        if len(data) != len(part) * width:
            raise UnicodeError(f"characters beyond {width} bytes")  # UTF-16 in pairs
        _put(fd, data)
    _put(fd, bytes(width))


def _put(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[:CHUNK]) :]
