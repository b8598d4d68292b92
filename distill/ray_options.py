"""Which Ray cluster a command line asks for."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.errors import InputError, MachineError
from distill.supervisor.placement import RayCluster
from distill.worker_settings import WorkerSettings

NUMBERS = ("num_workers", "gpus_per_worker", "cores_per_worker")


def with_cluster(settings: WorkerSettings, options: dict[str, Any]) -> WorkerSettings:
    """The settings with the cluster of --ray, which is taken out of a command's options.

    Raises InputError where the options do not go together.
    """
    cluster = _cluster(options)
    if cluster is None:
        return settings
    others = {
        "--gpus": settings.gpus,
        "--cores": settings.cores,
        "--worker-url": settings.url,
        "--no-local-workers": settings.only_joined,
    }
    for other in (name for name, value in others.items() if value):
        raise InputError(f"--ray and {other} exclude each other: Ray says where workers run")
    return replace(settings, model=_absolute(settings.model), ray=cluster)


def _cluster(options: dict[str, Any]) -> RayCluster | None:
    address = options.pop("ray")
    numbers = {name: options.pop(name) for name in NUMBERS}
    given = {name: number for name, number in numbers.items() if number is not None}
    if address is None:
        for name in given:
            raise InputError(f"--{name.replace('_', '-')} is for --ray")
        return None
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
