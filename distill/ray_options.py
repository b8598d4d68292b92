"""Which Ray cluster a command line asks for."""

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.errors import InputError, MachineError
from distill.resident import WorkerSettings
from distill.supervisor.placement import RayCluster

NUMBERS = ("num_workers", "gpus_per_worker", "cores_per_worker")


def with_cluster(
    settings: WorkerSettings, options: dict[str, Any], others: Mapping[str, str | None]
) -> WorkerSettings:
    """The settings with the cluster of --ray, which is taken out of a command's options.

    ``others`` are options that say where workers run in another way. Raises InputError.
    """
    cluster = _cluster(options, others)
    if cluster is None:
        return settings
    return replace(settings, model=_absolute(settings.model), ray=cluster)


def _cluster(options: dict[str, Any], others: Mapping[str, str | None]) -> RayCluster | None:
    address = options.pop("ray")
    numbers = {name: options.pop(name) for name in NUMBERS}
    given = {name: number for name, number in numbers.items() if number is not None}
    if address is None:
        for name in given:
            raise InputError(f"--{name.replace('_', '-')} is for --ray")
        return None
    for other in (name for name, value in others.items() if value is not None):
        raise InputError(f"--ray and {other} exclude each other: Ray says where workers run")
    if {"gpus_per_worker", "cores_per_worker"} <= set(given):
        raise InputError("--gpus-per-worker and --cores-per-worker exclude each other")
    return RayCluster(address or None, **given)


def _absolute(model: str | None) -> str | None:
    """A folder's whole path: on another machine the current folder is another."""
    return str(Path(model).resolve()) if model is not None and Path(model).is_dir() else model


def check_ray() -> None:
    """Raise MachineError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise MachineError(
            "--ray needs Ray, which is not installed here: bin/distill-up --ray installs it; "
            f"elsewhere: {sys.executable} -m pip install 'distill[ray]'"
        )
