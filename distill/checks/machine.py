"""The machine: system, versions, memory, disk, sockets."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from distill.checks import GIB, Check, gib
from distill.orchestrator import default_log_dir
from distill.sandbox import cache
from distill.supervisor import run_directory
from distill.user_folders import cache_folder
from distill.version import __version__

LEAST_PYTHON = (3, 11)
RUN_MEMORY_GIB = 1
"""Driver, launcher, keeper and a cell of modest size; a local model needs its own beside it."""
FREE_GIB = {"models": 1.0, "logs": 1.0, "temporary files": 0.5, "sandbox": 0.5}
"""Beneath these a run may fail half-way: a prepared model, a long trace, a context, the jail."""


def system() -> Check:
    """Kernel and architecture."""
    seen = f"{platform.system()} {platform.release()}, {platform.machine()}"
    fine = platform.machine() in ("x86_64", "aarch64")
    return Check("system", fine, seen, "an x86-64 or aarch64 machine")


def python() -> Check:
    """The interpreter."""
    seen = f"{platform.python_version()} ({sys.executable})"
    return Check("python", sys.version_info[:2] >= LEAST_PYTHON, seen, "use Python 3.11 or newer")


def versions() -> Check:
    """Distill and its dependencies, as it was released with them."""
    needs = list(_requirements())
    seen = ", ".join(f"{need.name} {_installed(need.name) or 'missing'}" for need in needs)
    wrong = [
        need
        for need in needs
        if not need.specifier.contains(_installed(need.name) or "0", prereleases=True)
    ]
    if wrong:
        remedy = " ".join(f"'{need.name}{need.specifier}'" for need in wrong)
        remedy = f"{sys.executable} -m pip install {remedy}"
        return Check("versions", False, f"distill {__version__}; {seen}", remedy)
    seen = seen or "run from its folder, not installed"
    return Check("versions", True, f"distill {__version__}; {seen}")


def _requirements() -> Iterator[Requirement]:
    """What distill needs wherever it runs; nothing where it is not installed."""
    try:
        texts = metadata.requires("distill") or []
    except metadata.PackageNotFoundError:
        return
    for need in map(Requirement, texts):
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            yield need


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def memory() -> Check:
    """What is free now."""
    found = psutil.virtual_memory()
    return Check(
        "memory",
        found.available >= RUN_MEMORY_GIB * GIB,
        f"{gib(found.available)} of {gib(found.total)} available, {os.cpu_count()} CPUs",
        f"end other programs: a run takes {RUN_MEMORY_GIB} GiB, a model its own beside it",
    )


def disk() -> Iterator[Check]:
    """Each folder that a run writes to."""
    yield _folder("models", cache_folder(), "XDG_CACHE_HOME")
    yield _folder("logs", default_log_dir().parent, "XDG_STATE_HOME, or --log-dir,")
    yield _folder("temporary files", Path(tempfile.gettempdir()), "TMPDIR")
    try:
        yield _folder("sandbox", cache.directory(), "XDG_CACHE_HOME")
    except OSError as error:
        yield Check("disk", False, f"sandbox: {error}", "make one of these folders writable")


def _folder(purpose: str, folder: Path, variable: str) -> Check:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Check(
            "disk",
            False,
            f"{purpose}: {existing} can't be written",
            f"set {variable} to another folder",
        )
    free_bytes = shutil.disk_usage(existing).free
    return Check(
        "disk",
        free_bytes >= FREE_GIB[purpose] * GIB,
        f"{purpose}: {gib(free_bytes)} free in {folder}",
        f"free {FREE_GIB[purpose]:g} GiB, or set {variable} to another folder",
    )


def sockets() -> Check:
    """Where run directories lie; sweeps those whose driver is gone."""
    base = run_directory.base_directory()
    longest = len(os.fsencode(base)) + len(f"/distill-{os.getuid()}-12345678")
    longest += len(run_directory.LONGEST_SOCKET_NAME)
    if longest > run_directory.SOCKET_PATH_LIMIT_BYTES:
        return Check("sockets", False, f"{base} is too long a path", "set TMPDIR=/tmp")
    stale = [path for path in run_directory.sweep(base) if path.exists()]
    names = " ".join(map(str, stale))
    return Check("sockets", not stale, f"run directories in {base}", f"remove {names}")
