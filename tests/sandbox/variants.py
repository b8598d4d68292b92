"""A plan whose jail has other files of ours: a kernel of another age, as far as it can be had."""

import shutil
from pathlib import Path

import msgspec

from distill.protocol.sandbox_link import JailPlan
from distill.sandbox.jail import landlock

JAIL = "distill/sandbox/jail"


def with_landlock(plan: JailPlan, abi: int, folder: Path) -> JailPlan:
    """The plan as on a kernel whose Landlock is of this ABI (1: Linux 5.13); 0: it has none."""
    modules = _staged_modules(plan)
    copy = folder / f"modules-{plan.tier}-{abi}"
    shutil.copytree(modules, copy)
    source = copy / JAIL / "landlock.py"
    text = source.read_text()
    assert f"NEWEST_KNOWN = {landlock.NEWEST_KNOWN}\n" in text
    source.chmod(0o644)
    source.write_text(
        text.replace(f"NEWEST_KNOWN = {landlock.NEWEST_KNOWN}\n", f"NEWEST_KNOWN = {abi}\n")
    )
    for compiled in (source.parent / "__pycache__").glob("landlock.*"):
        compiled.unlink()
    return msgspec.structs.replace(
        plan,
        argv=tuple(word.replace(str(modules), str(copy)) for word in plan.argv),
        env={name: value.replace(str(modules), str(copy)) for name, value in plan.env.items()},
    )


def _staged_modules(plan: JailPlan) -> Path:
    if plan.tier == "namespaces":
        return Path(plan.argv[plan.argv.index("/jail") - 1])
    return Path(plan.env["PYTHONPATH"])
