"""Landlock: what this process may read and write by path, from now on and for good.

In the namespace tier it is a second wall behind the mounts, and does nothing where the kernel
lacks it. In the Landlock tier it is the wall of files. ABI 1 (Linux 5.13) is enough there: what
later ones add, the filter denies.
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
NEWEST_KNOWN = 6
"""The newest ABI that adds something to restrict which is restricted here."""

READ = 0b1100  # READ_FILE, READ_DIR
READ_FILE = 0b100
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


def restrict(libc: Any, readable: tuple[str, ...], writable: tuple[str, ...]) -> int:
    """Restrict this thread; the ABI used, 0 if there is none. Raises OSError.

    ``writable`` may be read as well. Neither may be executed.
    """
    abi = min(version(libc), NEWEST_KNOWN)
    if abi < 1:
        return 0
    everything = EXECUTE | READ | WRITE
    everything |= (REFER if abi >= 2 else 0) | (TRUNCATE if abi >= 3 else 0)
    everything |= IOCTL if abi >= 5 else 0
    ruleset = _Ruleset(everything, NET if abi >= 4 else 0, SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    fd = _checked(libc.syscall(CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), 0))
    on_file = READ_FILE | WRITE_FILE | (everything & TRUNCATE)
    for path in readable:
        _allow(libc, fd, path, READ, READ_FILE)
    for path in writable:
        _allow(libc, fd, path, everything & ~EXECUTE, on_file)
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(libc.syscall(RESTRICT_SELF, fd, 0))
    os.close(fd)
    return abi


def version(libc: Any) -> int:
    """The kernel's ABI of it; below 1 there is none, and errno says why."""
    answer: int = libc.syscall(CREATE_RULESET, None, 0, VERSION_FLAG)
    return answer


def _allow(libc: Any, ruleset: int, path: str, on_folder: int, on_file: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    is_folder = os.path.isdir(path)  # noqa: PTH112  (pathlib costs 10 ms to import)
    rule = _Beneath(on_folder if is_folder else on_file, parent)
    _checked(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0))
    os.close(parent)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result
