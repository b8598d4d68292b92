"""From a list of rules to the kernel's classic BPF, of which five instructions are enough.

``python -m distill.sandbox.bpf`` writes the files that :func:`seccomp.load` reads.
"""

import errno
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from distill.sandbox import seccomp
from distill.sandbox.seccomp import PLAIN_ENOSYS, Rule, Rules, Test
from distill.sandbox.syscalls import AUDIT_ARCH, NEWEST_KNOWN, Machine, number

# struct sock_filter is u16 code, u8 jump-true, u8 jump-false, u32 operand
_LOAD, _AND, _JUMP_EQUAL, _JUMP_ABOVE, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
Instruction = tuple[int, int, int, int]


def assemble(rules: Rules, target: Machine) -> bytes:
    """The filter as the kernel wants it: an array of ``struct sock_filter``, little-endian."""
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, AUDIT_ARCH[target]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        # x32's calls (bit 30) land here as well.
        (_JUMP_ABOVE, 0, 1, NEWEST_KNOWN),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    for name, alternatives in rules.items():
        call = number(name, target)
        if call is not None:
            body = list(_body(alternatives))
            program += [(_JUMP_EQUAL, 0, len(body), call), *body]
    for name in PLAIN_ENOSYS:
        call = number(name, target)
        if call is not None:
            program += [(_JUMP_EQUAL, 0, 1, call), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    program.append((_RETURN, 0, 0, _ERRNO | errno.EPERM))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _body(alternatives: tuple[Rule, ...]) -> Iterator[Instruction]:
    """Allow if one of the alternatives holds; the last instruction always returns."""
    for rule in alternatives:
        checks = [instruction for test in rule for instruction in _check(test)]
        for index, (code, yes, no, operand) in enumerate(checks):
            # A failed test skips the rest of this alternative and its ALLOW.
            distance = len(checks) - index if code == _JUMP_EQUAL else no
            yield code, yes, distance, operand
        yield _RETURN, 0, 0, _ALLOW
    yield _RETURN, 0, 0, _ERRNO | errno.EPERM if alternatives else _ALLOW


def _check(test: Test) -> Iterator[Instruction]:
    """Compare the halves of a 64-bit argument that the mask covers."""
    for half in range(2):
        mask = test.mask >> 32 * half & 0xFFFF_FFFF
        if mask:
            yield _LOAD, 0, 0, _ARGUMENTS + 8 * test.argument + 4 * half
            yield _AND, 0, 0, mask
            yield _JUMP_EQUAL, 0, 0, test.value >> 32 * half & 0xFFFF_FFFF


def files() -> Iterator[tuple[Path, bytes]]:
    """Each filter's file, and what must be in it."""
    for target in get_args(Machine):
        for name, rules in seccomp.FILTERS.items():
            yield seccomp.path(name, target), assemble(rules, target)


if __name__ == "__main__":
    for file, content in files():
        file.write_bytes(content)
