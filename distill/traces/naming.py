"""How runs are named: ``FOLDER``, all runs of a log folder, or ``FOLDER#RUN``, one of them."""

from collections.abc import Collection, Iterable
from pathlib import Path

from distill.errors import InputError
from distill.traces.records import SUPERVISOR_LOG

LISTED = 8
"""Of the runs of a folder, where one is named that it lacks."""


def folder_and_run(named: str | Path) -> tuple[Path, str | None]:
    """The log folder, and the run's id if one is named. A folder's own name may have a ``#``."""
    folder = Path(named)
    if "#" not in folder.name or folder.is_dir():
        return folder, None
    before, _, run = str(named).rpartition("#")
    return Path(before), run


def named_folders(named: Iterable[str | Path]) -> dict[Path, set[str] | None]:
    """Each log folder once, by its first name, and which of its runs are named; None: all of them.

    Raises InputError for what is no log folder.
    """
    names: dict[Path, Path] = {}
    found: dict[Path, set[str] | None] = {}
    for each in named:
        folder, run = folder_and_run(Path(each).expanduser())
        folder = names.setdefault(folder.resolve(), folder)
        check_log(folder)
        wanted = found.setdefault(folder, set())
        if run is None:
            found[folder] = None
        elif wanted is not None:
            wanted.add(run)
    return found


def check_log(folder: Path) -> None:
    """Raise InputError for what is no log folder."""
    if not (folder / SUPERVISOR_LOG).is_file():
        raise InputError(f"{folder} holds no {SUPERVISOR_LOG}: not a log folder of distill")


def check_runs(folder: Path, wanted: Collection[str], there: Collection[str]) -> None:
    """Raise InputError where a run is named that is not there."""
    missing = sorted(set(wanted) - set(there))
    if missing:
        newest, more = list(there)[-LISTED:], max(0, len(there) - LISTED)
        older = f" and {more} older ones" if more else ""
        raise InputError(
            f"{folder} has no run {missing[0]}; there are {', '.join(newest) or 'none'}{older}"
        )
