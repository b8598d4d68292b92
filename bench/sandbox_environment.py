"""The environment that the anchors run in: made once, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("sandbox_requirements.txt")
INSTALL_S = 600
ASK = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"


@dataclass(frozen=True)
class Environment:
    """A Python with what could be installed; ``missing`` says what not, and why."""

    python: str
    missing: dict[str, str]

    def version(self, package: str) -> str | None:
        """The version of a package in it, None if it is not there."""
        asked = subprocess.run(
            [self.python, "-c", ASK, package], capture_output=True, text=True, check=False
        )
        return asked.stdout.strip() or None


def make(requirements: Path = REQUIREMENTS) -> Environment:
    """The anchors' environment for this Python and these pins; installs what it lacks."""
    names = [
        line for line in requirements.read_text().splitlines() if line and not line.startswith("#")
    ]
    folder = _folder(requirements.stem.partition("_")[0], names)
    environment = Environment(str(folder / "bin" / "python"), {})
    if not folder.exists():
        print(f"installing {', '.join(names)} into {folder}", flush=True)
        venv.create(folder, with_pip=True)
    for name in names:
        package, _, version = name.partition("==")
        if environment.version(package) != version:
            environment.missing.update(_install(environment, name))
    return environment


def _folder(bench: str, names: list[str]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256("\n".join([sys.version, *names]).encode()).hexdigest()[:12]
    return cache / "distill" / f"bench-{bench}-{key}"


def _install(environment: Environment, name: str) -> dict[str, str]:
    """One package at a time: one that can't be had leaves the others."""
    try:
        done = subprocess.run(
            [environment.python, "-m", "pip", "install", "--quiet", name],
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {name: f"it was not installed within {INSTALL_S} s"}
    if done.returncode == 0:
        return {}
    return {name: (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]}
