"""Where a user's files lie, as the XDG Base Directory Specification has it.

https://specifications.freedesktop.org/basedir-spec/latest/
"""

import os
from pathlib import Path


def cache_folder() -> Path:
    """What can be made again: ``~/.cache/distill``."""
    return _base("XDG_CACHE_HOME", ".cache") / "distill"


def config_folder() -> Path:
    """Settings and keys: ``~/.config/distill``."""
    return _base("XDG_CONFIG_HOME", ".config") / "distill"


def state_folder() -> Path:
    """Logs, if nobody says where: ``~/.local/state/distill``."""
    return _base("XDG_STATE_HOME", ".local/state") / "distill"


def _base(variable: str, otherwise: str) -> Path:
    """A relative path there would be another folder for each process: it counts as none."""
    base = Path(os.environ.get(variable, ""))
    return base if base.is_absolute() else Path.home() / otherwise
