"""Which jails have passed their probe, since the machine was started and where we are now."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from distill.protocol.sandbox_link import JailPlan
from distill.sandbox import cache

STATUS = ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")
"""Lines of /proc/self/status that begin so: what a container's engine may have taken away."""


def note(plan: JailPlan) -> str | None:
    """What was noted when this very jail passed, None if it has not."""
    path = _path(plan)
    return path.read_text() if path.exists() else None


def remember(plan: JailPlan, text: str) -> None:
    """It has passed; what is known of earlier starts of the machine is forgotten."""
    path = _path(plan)
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    draft.write_text(text)
    draft.rename(path)
    for old in path.parent.glob("passed-*"):
        if not old.name.startswith(path.name[:20]):
            old.unlink(missing_ok=True)


def _path(plan: JailPlan) -> Path:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    parts = [
        *plan.argv,
        *plan.env.values(),
        *(data.hex() for data in plan.blobs.values()),
        os.uname().release,
        *_surroundings(),
    ]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
    return cache.directory() / f"passed-{boot[:12]}-{digest}-{os.geteuid()}"


def _surroundings() -> Iterator[str]:
    """The cache may be shared with a container, where less is allowed than outside."""
    for space in ("mnt", "user"):
        yield str(Path(f"/proc/self/ns/{space}").readlink())
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(STATUS):
            yield line
