"""The context as a cell sees it: a real ``str`` whose characters are the host's own memory.

::

      a page of ours, private             the host's sealed file, shared, read-only
    ┌─────────────────────┬────────┐┌──────────────────────────────────────────┬───┐
    │                     │ header ││ characters, at CPython's own width       │ 0 │
    └─────────────────────┴────────┘└──────────────────────────────────────────┴───┘

CPython keeps a compact string in one piece: a header, then its characters (PEP 393). So a
header that stands right before the mapped file makes the file a string, whatever its size,
with nothing copied. The header is that of a real string of the same kind, with another length.
"""

from __future__ import annotations

import _socket  # the part of ``socket`` that is written in C: it starts at once
import ctypes
import os
import resource
import sys

from distill.sandbox.jail.confine import libc

TYPE_CHECKING = False  # importing typing would double the time to start
if TYPE_CHECKING:
    from typing import Any

PROT_NONE, PROT_READ, PROT_WRITE = 0, 1, 2
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE = 0x1, 0x2, 0x10, 0x20, 0x4000
WORD_BYTES = 8
REFERENCES = 1 << 30
"""References that nobody ever drops: the string is not freed, resized or changed in place.
Below what CPython 3.12 and later take for immortal, so it means the same in every version."""
MODEL_LENGTH = 1009
"""Of the string whose header is taken: a number that stands in it only where it is meant."""
HEADER_ROOM_BYTES = 128
"""More than any header: 40 to 72 bytes up to CPython 3.14."""
TEXT_KINDS = {
    "ascii": (1, "ascii", "\x7f"),
    "latin-1": (1, "latin-1", "\xff"),
    "ucs2": (2, "utf-16-le", "\uffff"),
    "ucs4": (4, "utf-32-le", "\U0010ffff"),
}
"""Kind → bytes a character, the codec of the same bytes, the highest character."""

_mmap = libc.mmap
_mmap.restype = ctypes.c_ssize_t
_mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
    *(ctypes.c_int, ctypes.c_int, ctypes.c_long),
)
_mprotect = libc.mprotect
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_munmap = libc.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_kept: list[Any] = []
"""Memory under strings that are never freed."""


def receive(end_fd: int, *, expected: bool) -> int:
    """The memory file's descriptor, which the launcher sends; -1 if none is ``expected``.

    Closes ``end_fd``. Raises OSError if none comes.
    """
    # All of its kind is given: the filter forbids to ask the kernel for it.
    end = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, end_fd)
    try:
        if not expected:
            return -1
        _, sent, _, _ = end.recvmsg(1, _socket.CMSG_LEN(4), _socket.MSG_CMSG_CLOEXEC)
    finally:
        end.close()
    if not sent:
        raise OSError("no context came")
    return int.from_bytes(sent[0][2], sys.byteorder)


def load(fd: int, kind: str, *, mapped: bool) -> tuple[Any, str]:
    """The context, and how it is held: ``mapped``, ``copied``, ``json`` or ``none``. Closes ``fd``.

    Raises OSError, MemoryError; ValueError or RecursionError for JSON that is none.
    """
    if kind == "none":
        return None, kind
    size_bytes = os.fstat(fd).st_size
    address = _map(fd, size_bytes)
    os.close(fd)
    if kind in TEXT_KINDS and mapped:
        return _string_at(address, size_bytes, kind), "mapped"
    if kind in TEXT_KINDS:
        width, codec, _ = TEXT_KINDS[kind]
        value: Any = _decoded(address, size_bytes - width, codec)
    else:
        import json

        value = json.loads(_decoded(address, size_bytes, "utf-8"))
    _munmap(address, size_bytes)
    return value, "copied" if kind in TEXT_KINDS else "json"


def strings_can_be_made() -> bool:
    """Whether a string made here is like any other: tried small, once for each kind."""
    # Another size: a build without the GIL, whose objects begin differently.
    if sys.implementation.name != "cpython" or object.__basicsize__ != 2 * WORD_BYTES:
        return False
    return all(_agrees(kind) for kind in TEXT_KINDS)


def _agrees(kind: str) -> bool:
    width, _, highest = TEXT_KINDS[kind]
    plain = f"a{highest}b{highest}"
    data = b"".join(ord(character).to_bytes(width, sys.byteorder) for character in plain + "\0")
    buffer = ctypes.create_string_buffer(bytes(HEADER_ROOM_BYTES) + data)
    _kept.append(buffer)
    made = _string_at(ctypes.addressof(buffer) + HEADER_ROOM_BYTES, len(data), kind)
    return (
        type(made) is str
        and sys.getsizeof(made) == sys.getsizeof(plain)
        and (len(made), hash(made), repr(made)) == (len(plain), hash(plain), repr(plain))
        and made == plain
        and plain == made
        and {plain: True}.get(made, False)
        and made[1:] == plain[1:]
        and made.find(f"b{highest}") == 2
        and made.isascii() == plain.isascii()
        and made.encode() == plain.encode()
        and made + "x" == plain + "x"
        and ctypes.create_unicode_buffer(made)[:] == ctypes.create_unicode_buffer(plain)[:]
    )


def _map(fd: int, size_bytes: int) -> int:
    """The address of the mapped file; the page before it can be written. Raises OSError."""
    page_bytes = resource.getpagesize()
    anonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
    # Reserved in one piece, so that nothing else can come to lie between page and file.
    start = _mmap(None, page_bytes + size_bytes, PROT_NONE, anonymous, -1, 0)
    if start == -1:
        raise _failed("reserving memory")
    if _mprotect(start, page_bytes, PROT_READ | PROT_WRITE) != 0:
        raise _failed("the header's page")
    address: int = start + page_bytes
    if _mmap(address, size_bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) != address:
        raise _failed("mapping the context")
    return address


def _failed(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")


def _string_at(address: int, size_bytes: int, kind: str) -> Any:
    """The string whose characters, and a zero, begin at this address; its header goes before."""
    width, _, highest = TEXT_KINDS[kind]
    length = size_bytes // width - 1
    model = highest * MODEL_LENGTH  # made now: nobody has interned it, or asked for its UTF-8
    header_bytes = sys.getsizeof(model) - (MODEL_LENGTH + 1) * width
    header = address - header_bytes
    ctypes.memmove(header, id(model), header_bytes)
    words = (ctypes.c_ssize_t * (header_bytes // WORD_BYTES)).from_address(header)
    words[0] = REFERENCES
    words[2] = length
    words[3] = -1  # its hash: not computed yet
    # Beyond type, length, hash and state there are only other forms of the text, none made yet.
    # But in 3.11 the wide form of a string of kind 4 is the string itself.
    moved = {id(model) + header_bytes: address, MODEL_LENGTH: length}
    words[5:] = [moved.get(word, word) for word in words[5:]]
    return ctypes.cast(header, ctypes.py_object).value


def _decoded(address: int, size_bytes: int, codec: str) -> str:
    """A string of its own with what is mapped there."""
    return str((ctypes.c_char * size_bytes).from_address(address), codec)
