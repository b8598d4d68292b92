"""The filters are what the readable lists say, and assembled as the kernel wants them."""

import struct
from pathlib import Path
from typing import get_args

import pytest

from distill.sandbox import bpf, seccomp
from distill.sandbox.jail import confine
from distill.sandbox.syscalls import _BOTH as NUMBERS
from distill.sandbox.syscalls import Machine

RETURN = 0x06
REBUILD = "python -m distill.sandbox.bpf writes it anew"
INSTALLED_BY_HAND = {"seccomp"}
"""In the table for its number only."""


@pytest.mark.parametrize(
    ("path", "data"), list(bpf.files()), ids=lambda value: getattr(value, "name", "")
)
def test_the_file_is_what_the_list_says(path: Path, data: bytes) -> None:
    assert path.read_bytes() == data, REBUILD


def test_no_file_is_left_over() -> None:
    assert {path for path, _ in bpf.files()} == set(seccomp.FOLDER.iterdir())


@pytest.mark.parametrize("target", get_args(Machine))
@pytest.mark.parametrize("name", get_args(seccomp.FilterName))
def test_filters_assemble(target: Machine, name: seccomp.FilterName) -> None:
    program = list(struct.iter_unpack("<HBBI", seccomp.load(name, target)))
    assert len(program) <= 4096  # BPF_MAXINSNS
    assert program[-1][0] == RETURN
    for index, (code, yes, no, _) in enumerate(program):
        assert code == RETURN or index + 1 + max(yes, no) < len(program)


def test_the_inner_filters_are_the_stricter() -> None:
    assert set(seccomp.ALONE) < set(seccomp.INNER) < set(seccomp.OUTER)
    assert "execve" not in seccomp.INNER


def test_a_number_that_no_list_names_is_not_kept() -> None:
    named = {call for rules in seccomp.FILTERS.values() for call in rules}
    assert set(NUMBERS) - named == INSTALLED_BY_HAND | set(seccomp.PLAIN_ENOSYS)


@pytest.mark.parametrize("name", get_args(seccomp.FilterName))
def test_the_pid_has_its_place(name: seccomp.FilterName) -> None:
    """The interpreter replaces these four bytes; anywhere else they would be something else."""
    assert confine.OWN_PID == seccomp.OWN_PID
    rules = seccomp.FILTERS[name].values()
    wanted = sum(
        test.value == seccomp.OWN_PID
        for alternatives in rules
        for rule in alternatives
        for test in rule
    )
    assert wanted > 0
    operands = [k for _, _, _, k in struct.iter_unpack("<HBBI", seccomp.load(name, "x86_64"))]
    assert operands.count(seccomp.OWN_PID) == wanted
    assert seccomp.load(name, "x86_64").count(seccomp.OWN_PID.to_bytes(4, "little")) == wanted
