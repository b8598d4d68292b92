"""What every attack finds defined: raw system calls, and children. Runs in the cell, before it."""

import contextlib
import ctypes
import errno
import os
import struct  # noqa: F401  (for the attacks)
import textwrap
from collections.abc import Callable
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


class Nothing(Exception):
    """The attack was not refused, and found nothing."""


def checked(result: int) -> int:
    """A libc call's result. Raises OSError for -1."""
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def call(number: int, *arguments: Any) -> int:
    """A raw system call (x86-64). Raises OSError."""
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    ctypes.set_errno(0)
    return checked(libc.syscall(ctypes.c_long(number), *words))


def reached(code: int, action: Callable[[], Any]) -> None:
    """``action`` must get as far into the kernel as the error that only its own code gives."""
    try:
        action()
    except OSError as error:
        if error.errno != code:
            raise


def in_child(action: Callable[[], Any]) -> None:
    """Run ``action`` in a forked child. Raises OSError with the errno that the child met."""
    pid = os.fork()
    if pid == 0:
        status = 255
        with contextlib.suppress(BaseException):
            try:
                action()
                status = 0
            except OSError as error:
                status = error.errno or 255
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert 0 <= status < 255, status
    if status:
        raise OSError(status, os.strerror(status))


def attempt(code: str, names: dict[str, Any]) -> None:
    """Run the attack and print its outcome."""
    try:
        exec(compile(textwrap.dedent(code), "attack", "exec"), names)
    except AssertionError:
        raise
    except KeyboardInterrupt:
        print("interrupted")  # noqa: T201
    except OSError as error:
        print(errno.errorcode.get(error.errno or 0, f"{error!r}"))  # noqa: T201
    except Exception as error:  # noqa: BLE001  (whatever it met is the outcome)
        print(type(error).__name__)  # noqa: T201
    else:
        print("worked")  # noqa: T201
