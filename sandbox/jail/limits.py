"""Which limit was hit: by name and amount, for whoever reads of it."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False  # importing typing would double the time to start
if TYPE_CHECKING:
    from distill.sandbox.jail.wire import Wire

UNITS = ("bytes", "KiB", "MiB", "GiB")
NO_FILES = (errno.EACCES, errno.ENOENT)
"""Where there is no scratch folder, what comes of making a file; EPERM if it names one."""
NO_THREAD = ("can't start new thread",)
"""Python's words for every reason that the kernel may have had."""


def told(name: str, amount: float) -> str:
    """``(limit: memory_bytes = 2 GiB)``."""
    return f"(limit: {_stated(name, amount)})"


def hit(error: BaseException, limits: Wire, scratch: str) -> str | None:
    """The limit that an exception of a cell comes from, None if from none.

    ``scratch`` is the scratch folder's path.
    """
    if isinstance(error, MemoryError):
        return told("memory_bytes", limits["memory_bytes"])
    if type(error) is RuntimeError and error.args == NO_THREAD:
        names = ("threads", "memory_bytes")
        return f"(limits: {', '.join(_stated(name, limits[name]) for name in names)})"
    if not isinstance(error, OSError):
        return None
    name = _of_errno(error, limits, scratch)
    return told(name, limits[name]) if name else None


def _of_errno(error: OSError, limits: Wire, scratch: str) -> str | None:
    has_scratch = limits["scratch_bytes"] > 0
    match error.errno:
        case errno.ENOMEM:
            return "memory_bytes"
        case errno.EMFILE:
            return "open_files"
        case errno.EFBIG:
            return "scratch_bytes" if has_scratch else "output_bytes"
        case errno.ENOSPC:
            return "scratch_bytes" if os.statvfs(scratch).f_ffree else "scratch_inodes"
    names_file = error.errno == errno.EPERM and error.filename is not None
    if not has_scratch and (error.errno in NO_FILES or names_file):
        return "scratch_bytes"
    return None


def _stated(name: str, amount: float) -> str:
    if name.endswith("_s"):
        return f"{name} = {amount:g} s"
    if not name.endswith("_bytes"):
        return f"{name} = {amount:g}"
    if amount == 0:
        return f"{name} = 0 bytes, so that no file can be made"
    power = max(n for n in range(len(UNITS)) if amount % 1024**n == 0)
    return f"{name} = {amount / 1024**power:.0f} {UNITS[power]}"
