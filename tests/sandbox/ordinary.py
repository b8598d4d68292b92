"""Become an ordinary user, and run a command: ``python ordinary.py COMMAND…``, as root.

What the tests run from may lie in a folder that other users can't enter (a Python under /root).
In a mount namespace of its own such a folder is replaced by one that shows just that.
"""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

UID = 12345
HERE = Path(__file__).resolve()


def prefix() -> tuple[str, ...]:
    """What to put before a command so that an ordinary user runs it; nothing if one does."""
    if os.geteuid() != 0:
        return ()
    return ("unshare", "--mount", sys.executable, str(HERE))


def uid() -> int:
    """The user that commands after ``prefix`` run as."""
    return os.geteuid() or UID


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def _closed(path: Path) -> Path | None:
    """The outermost folder of this path that others can't enter."""
    folders = reversed((path, *path.parents))
    return next((f for f in folders if not f.stat().st_mode & stat.S_IXOTH), None)


def _open_up() -> None:
    found = {Path(place).resolve() for place in (sys.prefix, sys.base_prefix, HERE.parents[2])}
    hidden: dict[Path, list[Path]] = {}
    for path in found:
        if (closed := _closed(path)) is not None:
            hidden.setdefault(closed, []).append(path)
    for closed, paths in hidden.items():
        kept = {path: tempfile.mkdtemp() for path in paths}
        for path, place in kept.items():
            _mount("--bind", str(path), place)
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(closed))
        for path, place in kept.items():
            path.mkdir(parents=True)
            _mount("--bind", place, str(path))


def main() -> None:
    """Open up, step down, become the command."""
    home = tempfile.mkdtemp(prefix="dst-home-")
    os.chown(home, UID, UID)
    _open_up()
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)
    environment = {**os.environ, "HOME": home}
    environment.pop("XDG_CACHE_HOME", None)
    os.execve(sys.argv[1], sys.argv[1:], environment)


if __name__ == "__main__":
    main()
