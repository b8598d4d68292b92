"""Which sandbox works here, tried with a real cell in a real jail, and what it is made of."""

import ctypes
import os
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

from distill.checks import Check, gib
from distill.errors import DistillError
from distill.limits import BOUNDS, Limits, amount, table
from distill.packages import described
from distill.protocol.sandbox_link import NoJail
from distill.repl import REPL
from distill.sandbox import bubblewrap, plan, probe
from distill.sandbox.jail import landlock
from distill.supervisor.cgroup import place

BWRAP_S = 10.0
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
CELL = "print(len(context))"
CURBED_BY = {
    "memory_bytes": resource.RLIMIT_DATA,
    "scratch_bytes": resource.RLIMIT_FSIZE,
    "open_files": resource.RLIMIT_NOFILE,
    "threads": resource.RLIMIT_NPROC,
}
"""Limits that a jail can't have above the hard limit of the process that starts it."""


def sandbox(limits: Limits, packages: Sequence[str]) -> Check:
    """The best tier that works here, tried now with a hostile cell and through a whole REPL.

    To be called before this process has threads.
    """
    found = plan.make(packages=packages)
    if isinstance(found, NoJail):
        return Check("sandbox", False, "\n".join(found.tried), found.remedy)
    try:
        probe.run(found)  # the plan may have passed it long ago
    except probe.ProbeError as error:
        return Check("sandbox", False, f"tier {found.tier}: {error}")
    try:
        with REPL("text", "question", str, list) as repl:
            repl.limits, repl.packages = limits, tuple(packages)
            result = repl.execute(CELL)
    except DistillError as error:
        return Check("sandbox", False, str(error))
    if result.stdout != "4\n":
        return Check("sandbox", False, "a harmless cell failed", result.lost or result.stderr)
    seen = [f"tier {found.tier}: a hostile cell was stopped, a harmless one ran", *found.notes]
    seen += [f"packages inside: {', '.join(described(packages))}"] if packages else []
    return Check("sandbox", True, "\n".join(seen))


def bubblewrap_program() -> Check:
    """The program that builds the better tier."""
    binary = bubblewrap.find()
    if binary is None:
        return Check(
            "bubblewrap", None, "not found", "apt install bubblewrap, or dnf install bubblewrap"
        )
    try:
        told = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, check=True, timeout=BWRAP_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Check("bubblewrap", False, f"{binary} does not run: {error}", "install it again")
    return Check("bubblewrap", True, f"{told.stdout.strip()} ({binary})")


def namespaces() -> Check:
    """The kernel's switches for user namespaces; root does not need them."""
    bad = [
        f"sudo sysctl -w {command}"
        for path, (value, command) in plan.USERNS_SWITCHES.items()
        if path.exists() and path.read_text().strip() == value
    ]
    if not bad:
        return Check("namespaces", True, "no kernel switch forbids user namespaces")
    return Check("namespaces", None, "restricted by the kernel's settings", " && ".join(bad))


def landlock_version() -> Check:
    """The kernel's Landlock, the second wall of one tier and the first of the other."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(landlock.CREATE_RULESET, None, 0, landlock.VERSION_FLAG)
    if version >= 1:
        return Check("landlock", True, f"ABI {version}")
    reason = os.strerror(ctypes.get_errno())
    return Check(
        "landlock",
        None,
        f"not there ({reason}): one layer less",
        "Linux 5.13 or newer, with landlock in /sys/kernel/security/lsm",
    )


def cgroup() -> Check:
    """Whether jails get cgroups of their own."""
    found = place()
    if found is None:
        return Check("cgroup", None, "no cgroup v2 here: rlimits bound memory")
    seen = f"{found.folder} ({', '.join(found.controllers) or 'neither memory nor pids'})"
    if found.is_delegated:
        return Check("cgroup", True, f"delegated: {seen}; each jail gets one")
    return Check(
        "cgroup",
        None,
        f"not delegated: {seen}; rlimits bound memory",
        "systemd-run --user --scope -p Delegate=yes …, where that is wanted",
    )


def limits_in_force(limits: Limits) -> Check:
    """The limits of a run, held against what this machine and this shell allow."""
    total_bytes = _memory_bytes()
    names = [name for name, which in CURBED_BY.items() if _hard(which) < getattr(limits, name)]
    seen = ["of a run for which nothing else is said", *table(limits).splitlines()]
    for name in names:
        hard = amount(name, _hard(CURBED_BY[name]))
        seen.append(f"  {name} is lowered to {hard} by this shell's ulimit")
    if any(_hard(CURBED_BY[name]) < BOUNDS[name].least for name in names):
        return Check("limits", False, "\n".join(seen), "raise the hard limit: ulimit -H")
    if limits.memory_bytes > total_bytes:
        half_mib = max(64, total_bytes // (2 << 20))
        return Check(
            "limits",
            False,
            "\n".join([*seen, f"  memory_bytes is more than this machine's {gib(total_bytes)}"]),
            f"--limit memory_bytes={half_mib}MiB",
        )
    return Check("limits", None if names else True, "\n".join(seen))


def _hard(which: int) -> float:
    hard = resource.getrlimit(which)[1]
    return float("inf") if hard == resource.RLIM_INFINITY else hard


def _memory_bytes() -> int:
    """The machine's memory, or the container's where that is less."""
    total = psutil.virtual_memory().total
    try:
        return min(total, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # absent, or "max"
        return total
