"""``training.json``: what was asked for, from the start on, and in the end what came of it."""

import importlib.metadata
import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import InputError
from distill.supervisor.journal import now
from distill.training.data import DataSet
from distill.training.extra import NEEDED
from distill.training.fitting import write_whole
from distill.training.method import Method
from distill.training.settings import TrainSettings
from distill.training.trained import Fitted, Trained
from distill.user_folders import make_private
from distill.version import __version__

if TYPE_CHECKING:
    from distill.training.weights import Weights

FILE = "training.json"
VERSION = 1


def asked(method: Method, data: DataSet, settings: TrainSettings) -> dict[str, Any]:
    """What makes a training this one: equal for the same command on the same rows."""
    return {
        "method": method.name,
        "settings": settings.told() | method.options(),
        "data": {"manifest_sha256": data.sha256, "format": data.format},
    }


def earlier(out: Path, wanted: dict[str, Any]) -> Trained | None:
    """What has come of it already, if it has ended. Raises InputError for another's folder."""
    path = out / FILE
    if not path.exists():
        return None
    told = _read(path)
    if differing := _differing(told["asked"], wanted):
        raise InputError(f"{out} has another training: {differing}. Choose another --out")
    return None if told["trained"] is None else _trained(out, told["trained"])


def begin(out: Path, wanted: dict[str, Any]) -> None:
    """Claim a folder for a training of which all is known to be there. Raises InputError."""
    try:
        make_private(out)
        write_whole(out / FILE, {"version": VERSION, "asked": wanted, "trained": None})
    except OSError as error:
        raise InputError(f"{out} can't be written: {error.strerror or error}") from error


def end(wanted: dict[str, Any], trained: Trained, weights: "Weights") -> None:
    """Write down what came of it. Raises InputError."""
    came = {
        "weights": trained.weights.name,
        "is_adapter": trained.is_adapter,
        "rows": trained.rows,
        "parity": trained.parity,
        "warnings": trained.warnings,
        **asdict(trained.fitted),
    }
    whole = {
        "version": VERSION,
        "asked": wanted,
        "trained": came,
        "ended_at_s": now(),
        "model": {name: getattr(weights.card, name) for name in weights.card.__struct_fields__},
        "versions": {
            "distill": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in NEEDED},
        },
    }
    try:
        write_whole(trained.out / FILE, whole)
    except OSError as error:
        raise InputError(f"{trained.out} can't be written: {error.strerror or error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read: {error}") from error
    if not isinstance(told, dict) or told.get("version") != VERSION:
        raise InputError(f"{path} is not of this version of distill: choose another --out")
    return told


def _trained(out: Path, came: dict[str, Any]) -> Trained:
    fields = Fitted.__dataclass_fields__
    return Trained(
        out=out,
        weights=out / came["weights"],
        is_adapter=came["is_adapter"],
        fitted=Fitted(**{name: came[name] for name in fields}),
        rows=came["rows"],
        parity=came["parity"],
        warnings=came["warnings"],
    )


def _differing(before: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first thing that was asked for in another way, empty if there is none."""
    flat_before, flat_wanted = _flat(before), _flat(wanted)
    for name, value in flat_wanted.items():
        if flat_before.get(name) != value:
            return f"{name.replace('_', '-')} was {flat_before.get(name)}, and is {value} now"
    return ""


def _flat(told: dict[str, Any]) -> dict[str, Any]:
    settings, data = told["settings"], told["data"]
    return {"method": told["method"], **settings, **{f"data {name}": data[name] for name in data}}
