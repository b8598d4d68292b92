"""The folders that are exported: which runs they hold, and their worker calls one by one."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distill.errors import InputError
from distill.traces import Run, reading, records
from distill.traces.contexts import read_context, texts_of
from distill.traces.naming import check_runs, named_folders
from distill.traces.reading import Skipped, calls_in

CHUNK_BYTES = 1 << 20
SKIPPED_TOLD = 20
"""Of the lines of an input that could not be read, in its manifest."""


@dataclass(slots=True)
class InputFile:
    """A file as it was read: its first ``bytes`` bytes, which have this SHA-256."""

    path: Path
    bytes: int
    sha256: str


@dataclass(slots=True)
class Source:
    """A log folder; ``only`` are the runs that were named, None: all of them."""

    folder: Path
    only: set[str] | None
    files: list[InputFile] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)
    skipped_of_runs: list[Skipped] = field(default_factory=list)
    skipped_of_calls: list[Skipped] = field(default_factory=list)
    """Of the last time that they were read."""

    @property
    def skipped(self) -> list[Skipped]:
        """The lines of both logs that are no records."""
        return self.skipped_of_runs + self.skipped_of_calls

    def calls(self) -> Iterator[records.Call]:
        """Its worker calls, read from the disk each time; one is in memory at a time.

        Those that were there when the log was hashed: every time the same ones.
        """
        self.skipped_of_calls = []
        limit_bytes = self.bytes_of(records.WORKER_LOG)
        return calls_in(self.folder, self.skipped_of_calls, limit_bytes)

    def bytes_of(self, log: str) -> int:
        """How long a log was when it was hashed; 0 if it was not there."""
        return next((each.bytes for each in self.files if each.path.name == log), 0)

    def grown(self) -> list[Path]:
        """Its files that have more than when they were hashed: a run is still being written."""
        return [each.path for each in self.files if each.path.stat().st_size != each.bytes]


def sources(runs: Sequence[str | Path]) -> list[Source]:
    """The log folders that FOLDER and FOLDER#ID name, each once. Raises InputError."""
    if not runs:
        raise InputError("nothing to export: name a log folder, or FOLDER#ID")
    return [Source(folder, only) for folder, only in named_folders(runs).items()]


def read_runs(source: Source) -> None:
    """Read its runs but for their worker calls. Raises InputError where a named one is missing."""
    for log in (records.SUPERVISOR_LOG, records.WORKER_LOG):
        if (path := source.folder / log).is_file():
            source.files.append(hashed(path))
    trace = reading.read_runs(source.folder, source.bytes_of(records.SUPERVISOR_LOG))
    source.runs, source.skipped_of_runs = trace.runs, trace.skipped
    check_runs(source.folder, source.only or (), source.runs)


def hashed(path: Path) -> InputFile:
    """Of what is there now: a driver may append to it meanwhile."""
    digest, left = hashlib.sha256(), path.stat().st_size
    size = left
    with path.open("rb") as file:
        while left and (chunk := file.read(min(left, CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
    return InputFile(path, size - left, digest.hexdigest())


def part_hashes(run: Run) -> set[str]:
    """The SHA-256 of the text that a run asked about, and of each text of a list or dict in it.

    A text that can't be read, or is not what it was, has only the first, which the log has.
    """
    assert run.start is not None
    whole = run.start.context
    if whole.kind == "text":
        return {whole.sha256}
    try:
        parts = read_context(run.folder, whole)
        texts = list(texts_of(parts)) if isinstance(parts, list | dict) else []
    except (InputError, RecursionError):
        return {whole.sha256}
    return {whole.sha256} | {
        hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
        for _, text in texts
        if text.strip()
    }
