"""The probe is honest: it refuses with the kernel's own words and a remedy."""

import os
import subprocess
import sys

import msgspec
import pytest

from distill.protocol.sandbox_link import JailPlan
from distill.sandbox import plan, probe

MAKE = "from distill.sandbox import plan; print(plan.make())"


def test_a_plan_is_made_and_passes_its_probe() -> None:
    found = plan.make()
    assert isinstance(found, JailPlan), found
    probe.run(found)


def test_a_jail_that_does_not_hold_is_refused() -> None:
    """The probe looks at the jail, not at the plan: one with a /proc is found out."""
    found = plan.make()
    assert isinstance(found, JailPlan)
    at = found.argv.index("--remount-ro")
    weak = (*found.argv[:at], "--proc", "/proc", *found.argv[at:])
    with pytest.raises(probe.ProbeError, match="no /proc"):
        probe.run(msgspec.structs.replace(found, argv=weak))


def test_refusal_names_the_reason_and_the_remedy() -> None:
    """As root of a user namespace with no other uid, no jail could have its own."""
    told = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", MAKE],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
    ).stdout
    assert "NoJail" in told
    assert "no other uid" in told
    assert "/etc/subuid" in told
