"""``distill doctor``: is this machine fit, how does an engine do, and are these logs whole?"""

import dataclasses
import json
import os
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec

from distill.checks import MARKS, Check, engine, isolation, machine, models
from distill.doctor_logs import check_logs
from distill.errors import InputError, MachineError
from distill.limits import Limits, parse, replaced
from distill.packages import described
from distill.supervisor.text import visible

NAME_COLUMNS = 17


def check(
    runs: Sequence[Path],
    *,
    only_engine: bool,
    connect: str | None,
    as_json: bool,
    provenance: bool,
    limits: Sequence[str],
    sandbox_packages: Sequence[str],
) -> int:
    """Check the logs or the engine that is named, else this machine; the exit code.

    Raises InputError.
    """
    if provenance and not runs:
        raise InputError("--provenance is of a run: name its log folder")
    if only_engine or connect is not None:
        if runs:
            raise InputError("logs or an engine: leave out RUN, or --connect/--engine")
        return check_engine(connect, as_json=as_json)
    if runs:
        return check_logs(runs, as_json=as_json, provenance=provenance)
    return check_machine(limits, sandbox_packages, as_json=as_json)


def check_machine(limit_words: Sequence[str], packages: Sequence[str], *, as_json: bool) -> int:
    """Look at all that distill needs; 0 if a run would work, else 3. Raises InputError."""
    limits = replaced(Limits(), parse(limit_words))
    inside = described(packages)
    found = []
    for check in _looks(limits, packages):
        found.append(check)
        if not as_json:
            _show(check)
    fine = all(check.fine is not False for check in found)
    if as_json:
        checks = [dataclasses.asdict(check) for check in found]
        told = {"fine": fine, "checks": checks, "limits": msgspec.to_builtins(limits)}
        click.echo(json.dumps({**told, "sandbox_packages": inside}, indent=2))
    else:
        words = {True: ("a run works here", "green"), False: ("a run does not work here", "red")}
        click.echo(f"\n{click.style(words[fine][0], fg=words[fine][1], bold=True)}")
    return 0 if fine else MachineError.exit_code


def check_engine(endpoint: str | None, *, as_json: bool) -> int:
    """Look at an engine (this user's newest if None); 0 if it serves, else 3. Raises InputError."""
    found, status = engine.look(endpoint, _text_columns())
    fine = status is not None and all(check.fine is not False for check in found)
    if as_json:
        checks = [dataclasses.asdict(check) for check in found]
        told = {"fine": fine, "checks": checks, "engine": msgspec.to_builtins(status)}
        click.echo(json.dumps(told, indent=2))
    else:
        for check in found:
            _show(check)
    return 0 if fine else MachineError.exit_code


def _looks(limits: Limits, packages: Sequence[str]) -> Iterator[Check]:
    """All checks, in the order of showing; vLLM is imported meanwhile."""
    vllm = models.VllmImport()
    try:
        yield machine.system()
        yield machine.python()
        yield machine.versions()
        yield machine.memory()
        yield from machine.disk()
        yield machine.sockets()
        yield isolation.sandbox(limits, packages)
        yield isolation.bubblewrap_program()
        yield isolation.namespaces()
        yield isolation.landlock_version()
        yield isolation.cgroup()
        yield isolation.limits_in_force(limits)
        yield from models.gpus()
        if (cuda := models.visible()) is not None:
            yield cuda
        yield from vllm.checks()
        yield models.default_model()
        yield from engine.look(None, _text_columns())[0]
    finally:
        vllm.close()


def _show(check: Check) -> None:
    first, *others = visible(check.seen).splitlines() or [""]
    _line(MARKS[check.fine], check.name, first)
    for line in others:
        _line("   ", "", line)
    if not check.fine and check.remedy:
        _line("   ", "", f"→ {visible(check.remedy)}")


def _text_columns() -> int:
    """What a line has room for, beside the check's name; a file has any."""
    columns = shutil.get_terminal_size().columns if os.isatty(1) else 10_000
    return columns - NAME_COLUMNS


def _line(mark: str, name: str, text: str) -> None:
    """One line, wrapped where the terminal is narrower; a file gets it whole."""
    indent = " " * NAME_COLUMNS
    start = len(text) - len(text.lstrip())
    wrapped = textwrap.wrap(
        text,
        max(_text_columns(), 40),
        subsequent_indent=" " * start,
        break_long_words=False,
        break_on_hyphens=False,
    )
    shown = f"\n{indent}".join(wrapped)
    click.echo(f"{mark}  {name:<{NAME_COLUMNS - 5}}{shown}")
