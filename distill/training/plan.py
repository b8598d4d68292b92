"""What a loop is told: `loop.json` in its folder, which no other loop may have."""

import os
from pathlib import Path
from typing import Any, Literal

import msgspec

from distill.errors import InputError
from distill.exports.writing import sha256
from distill.training.markers import found, written
from distill.user_folders import cache_folder
from distill.worker_server.adapter_files import AdapterFiles
from distill.worker_server.errors import AdapterRefused
from distill.worker_server.fingerprint import fingerprint
from distill.worker_server.model import ModelFolder

FILE = "loop.json"
Labels = Literal["logged", "oracle"]
KNOWN_BY_HASH = ("tasks", "held_out", "whole_runs", "worker", "adapter")
"""The same files are the same by whatever path they are named."""


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of a loop, and of which files; how fast, as the devices, is not in it.

    ``training`` are the options of ``distill train METHOD`` that were given, by their flags, and
    ``selection`` those that choose rows, as ``distill.export`` has them.
    ``tasks_per_iteration`` None: all training tasks, each time. ``margin``: see
    ``distill.training.decision``. The hashes are of the worker's files, as in logs (``of_model``).
    """

    method: str
    tasks: str
    tasks_sha256: str
    held_out: str
    held_out_sha256: str
    iterations: int
    supervisor: str
    collect_with: str
    baselines: tuple[str, ...]
    whole_runs: str | None
    whole_runs_sha256: str
    whole_runs_with: str
    scorer: str
    labels: Labels
    margin: float
    tasks_per_iteration: int | None
    worker: str
    weights_hash: str = ""
    tokenizer_hash: str = ""
    template_hash: str = ""
    adapter: str | None = None
    adapter_sha256: str = ""
    window_tokens: int | None
    limits: tuple[str, ...]
    sandbox_packages: tuple[str, ...]
    base_url: str | None
    selection: dict[str, Any]
    training: dict[str, Any]


DEFAULTS = {
    each.name: each.default
    for each in msgspec.structs.fields(Plan)
    if each.default is not msgspec.NODEFAULT
}
"""What a loop has that was begun before there was such an option."""


def of_model(plan: Plan, base: ModelFolder) -> Plan:
    """The plan, with the hashes of the worker's files as they are now, its adapter's included.

    Raises InputError for an adapter that this model can't have.
    """
    hashes = fingerprint(base, cache_folder())
    try:
        adapter_sha256 = AdapterFiles.read(plan.adapter, base).sha256 if plan.adapter else ""
    except AdapterRefused as error:
        raise InputError(f"--adapter: {error}") from error
    return msgspec.structs.replace(
        plan,
        weights_hash=hashes.weights,
        tokenizer_hash=hashes.tokenizer,
        template_hash=hashes.template,
        adapter_sha256=adapter_sha256,
    )


def begin(out: Path, plan: Plan) -> None:
    """Make ``out`` this plan's, or find that it is, be it with fewer iterations until now.

    Raises InputError: it is another's, or no loop's at all.
    """
    known = found(out / FILE, dict[str, Any], "choose another --out")
    if known is None:
        if out.is_dir() and any(each.name[0] != "." for each in out.iterdir()):
            raise InputError(f"{out} has files, and they are no loop's: choose another --out")
        written(out / FILE, plan)
        return
    asked = msgspec.to_builtins(plan)
    known = DEFAULTS | known
    has_more = plan.iterations > known.get("iterations", plan.iterations)
    others = [
        f"{name} was {known.get(name)!r}, and is {asked[name]!r}"
        for name in asked
        if name not in KNOWN_BY_HASH
        and not (has_more and name == "iterations")
        and known.get(name) != msgspec.json.decode(msgspec.json.encode(asked[name]))
    ]
    if others:
        raise InputError(
            f"{out} is another loop's: {'; '.join(others)}. Give the command that it was begun "
            "with, on the files as they were, or choose another --out; only --iterations may grow"
        )
    if has_more:
        begun_s = (out / FILE).stat().st_mtime
        written(out / FILE, plan)
        os.utime(out / FILE, (begun_s, begun_s))  # it tells when the loop was begun


def refuse_loops(out: Path) -> None:
    """Raise InputError for the folder of a loop, which no single training may write to."""
    if (out / FILE).exists():
        raise InputError(f"{out} is a loop's folder: choose another --out for a single training")


def digest(path: Path | None) -> str:
    """Of a file's bytes; empty for none. Raises InputError: it can't be read."""
    try:
        return "" if path is None else sha256(path)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
