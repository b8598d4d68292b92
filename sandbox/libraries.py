"""Which shared libraries a program needs: asked of the system's own ``ldd``."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

LDD_S = 30.0
_FOUND = re.compile(r"^\s*(\S+) => (/\S+)", re.MULTILINE)
_LOADER = re.compile(r"^\s*(/\S*ld-\S+)(?: => \S+)? \(0x", re.MULTILINE)
_MISSING = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Needed:
    """Libraries by the name that a program asks for, and the loader's fixed path."""

    libraries: dict[str, Path] = field(default_factory=dict)
    loader: Path | None = None
    missing: tuple[str, ...] = ()


def needed_by(programs: Sequence[Path]) -> Needed:
    """What these programs and modules need, all together. Raises OSError without ``ldd``."""
    told = subprocess.run(
        ["ldd", *map(str, programs)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LDD_S,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
    ).stdout
    loader = _LOADER.search(told)
    return Needed(
        libraries={name: Path(path) for name, path in _FOUND.findall(told) if "/" not in name},
        loader=Path(loader[1]) if loader else None,
        missing=tuple(sorted(set(_MISSING.findall(told)))),
    )
