"""What a log says of runs that did not end well, without reading all of it."""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from distill.traces import records
from distill.traces.reading import Skipped, lines

TAIL_BYTES = 8 << 20
"""Of a log, what is searched for the end of a run that has just ended."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that has begun its conversation; ``end`` is None, or that of a run with an outcome."""

    start: records.RunStart
    end: records.RunEnd | None

    @property
    def id(self) -> str:
        """The run's id."""
        assert self.start.run is not None
        return self.start.run


def begun_runs(folder: Path) -> dict[str, list[Begun]]:
    """Runs that can be gone on with, or have an outcome, by their label, oldest first.

    None where there is no log.
    """
    if not (folder / records.SUPERVISOR_LOG).is_file():
        return {}
    starts: dict[str, records.RunStart] = {}
    begun: set[str] = set()
    ends: dict[str, records.RunEnd] = {}
    for _, record in lines(folder, records.SUPERVISOR_LOG):
        if isinstance(record, Skipped) or record.run is None:
            continue
        if isinstance(record, records.RunStart):
            starts[record.run] = record
        elif isinstance(record, records.Message):
            begun.add(record.run)
        elif isinstance(record, records.RunEnd) and record.status not in ("failed", "cancelled"):
            ends[record.run] = record
    found: dict[str, list[Begun]] = {}
    for run, start in starts.items():
        if start.label is not None and start.parent is None and run in begun:
            found.setdefault(start.label, []).append(Begun(start, ends.get(run)))
    return found


def last_end(folder: Path, run: str) -> records.RunEnd | None:
    """The end of a run that has just ended, None if it is not there."""
    try:
        with (folder / records.SUPERVISOR_LOG).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            tail = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(tail):
        if b'"run_end"' not in line or run.encode() not in line:
            continue
        try:
            record = msgspec.json.decode(line, type=records.SupervisorRecord)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if isinstance(record, records.RunEnd) and record.run == run:
            return record
    return None
