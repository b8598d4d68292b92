"""How runs are named: ``FOLDER``, all runs of a log folder, or ``FOLDER#RUN``, one of them."""

from pathlib import Path


def folder_and_run(named: str | Path) -> tuple[Path, str | None]:
    """The log folder, and the run's id if one is named. A folder's own name may have a ``#``."""
    folder = Path(named)
    if "#" not in folder.name or folder.is_dir():
        return folder, None
    before, _, run = str(named).rpartition("#")
    return Path(before), run
