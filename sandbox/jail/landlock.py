"""Landlock, a second wall behind the mounts: reading everywhere, writing in the scratch folder.

Where the kernel lacks it (before 5.13, or not enabled) nothing happens: in the namespace tier
it is one layer of several.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False  # importing typing would double the time to start
if TYPE_CHECKING:
    from typing import Any

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System calls; the same numbers on every architecture."""
VERSION_FLAG = 1
PATH_BENEATH = 1
PR_SET_NO_NEW_PRIVS = 38

READ = 0b1100  # READ_FILE, READ_DIR
WRITE = 0b0000_0001_1111_1111_1110 & ~READ  # ABI 1: writing, making and removing of any kind
WRITE_FILE = 0b10
TRUNCATE, REFER, IOCTL = 1 << 14, 1 << 13, 1 << 15
EXECUTE = 1
NET = 0b11  # bind and connect of TCP
SCOPES = 0b11  # abstract sockets, signals


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("filesystem", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def restrict(libc: Any, writable: tuple[str, ...]) -> int:
    """Restrict this process; the Landlock version used, 0 if there is none. Raises OSError."""
    version: int = libc.syscall(CREATE_RULESET, None, 0, VERSION_FLAG)
    if version < 1:
        return 0
    everything = EXECUTE | READ | WRITE
    everything |= (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0)
    everything |= IOCTL if version >= 5 else 0
    ruleset = _Ruleset(everything, NET if version >= 4 else 0, SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    fd = _checked(libc.syscall(CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), 0))
    _allow(libc, fd, "/", READ)
    for path in writable:
        directory = os.path.isdir(path)  # noqa: PTH112  (pathlib costs 10 ms to import)
        on_file = WRITE_FILE | (everything & TRUNCATE)
        _allow(libc, fd, path, everything & ~EXECUTE if directory else on_file)
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(libc.syscall(RESTRICT_SELF, fd, 0))
    os.close(fd)
    return version


def _allow(libc: Any, ruleset: int, path: str, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = _Beneath(rights, parent)
    _checked(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0))
    os.close(parent)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result
