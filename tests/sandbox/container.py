"""Run a command as a container engine does by default: ``python container.py [-l] COMMAND…``.

No new namespaces and no mounts, by a seccomp filter like Docker's, and as root only Docker's
default capabilities. With ``-l`` no Landlock either, like engines of before 2022.
"""

import ctypes
import errno
import os
import struct
import sys
from pathlib import Path

CALLS = {"unshare": 272, "mount": 165, "umount2": 166, "pivot_root": 155, "setns": 308}
"""Denied; x86-64."""
LANDLOCK = {"landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446}
CLONE, CLONE3, CLONE_NEW_ANYTHING = 56, 435, 0x7E02_0000
CAPABILITIES = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW,
SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP."""
LOAD, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, ERRNO = 0x7FFF_0000, 0x0005_0000
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 24, 38, 22

libc = ctypes.CDLL(None, use_errno=True)


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def prefix(*, landlock: bool = True) -> tuple[str, ...]:
    """What to put before a command."""
    return (sys.executable, str(Path(__file__).resolve()), *(() if landlock else ("-l",)))


def _filter(denied: dict[str, int]) -> bytes:
    program = [(LOAD, 0, 0, 0)]
    for number in denied.values():
        program += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, ERRNO | errno.EPERM)]
    program += [(JUMP_EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, ERRNO | errno.ENOSYS)]
    program += [
        (JUMP_EQUAL, 0, 3, CLONE),
        (LOAD, 0, 0, 16),
        (JUMP_SET, 0, 1, CLONE_NEW_ANYTHING),
        (RETURN, 0, 0, ERRNO | errno.EPERM),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main() -> None:
    """Shut, and become the command."""
    if os.geteuid() == 0:
        last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
        for capability in set(range(last + 1)) - set(CAPABILITIES):
            _checked(libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
    old = sys.argv[1] == "-l"
    command = sys.argv[2:] if old else sys.argv[1:]
    code = _filter(CALLS | LANDLOCK if old else CALLS)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0))
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
