"""The two logs of one folder, read on from where the last look ended."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from distill.traces import Skipped, records
from distill.traces.naming import check_log, check_runs, folder_and_run
from distill.traces.results import places_beside, results_beside
from distill.view.columns import CallLine
from distill.view.facts import RunFacts

LOOK_BYTES = 2 << 20
"""Read at a time, while who asks for a page waits."""
SKIPPED_KEPT = 200

_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    records.SUPERVISOR_LOG: msgspec.json.Decoder(records.SupervisorRecord),
    records.WORKER_LOG: msgspec.json.Decoder(CallLine | records.Process | records.Event),
}
_CALL = msgspec.json.Decoder(records.Call)


class FollowedFolder:
    """One log folder, or one run of it (``FOLDER#RUN``). ``lock`` is held while its runs change.

    Raises InputError: no log there, or no such run in it.
    """

    def __init__(self, named: Path, number: int) -> None:
        folder, self._only = folder_and_run(named)
        check_log(folder)
        if self._only is not None:
            check_runs(folder, [self._only], runs_in(folder))
        self.folder, self.number = folder, number
        self.lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self.runs: dict[str, RunFacts] = {}
        self.skipped: list[Skipped] = []
        self.skipped_lines = 0
        self.is_read = False
        """All that was there has been read once."""
        self._read_bytes = dict.fromkeys(_DECODERS, 0)
        self._searched_bytes = dict.fromkeys(_DECODERS, 0)
        """Up to where the line that is next has no end: a torn one may be long, and stay."""
        self._lines = dict.fromkeys(_DECODERS, 0)
        self._results: list[tuple[Path, int, int]] = []
        """The results files that were read, their sizes, and when they were written."""

    def look(self) -> bool:
        """Read what has come, some of it at a time; whether there is more."""
        with self.lock:
            # All of the supervisor's log first: a run's start has the prices of its calls.
            more = any(self._look(log) for log in _DECODERS)
            if not more:
                self._look_at_results()
                self.is_read = True
        return more

    def _look_at_results(self) -> None:
        """What an evaluation says of the runs, where that is new."""
        whole = self.folder.resolve()
        found = [(path, path.stat()) for path in places_beside(whole)]
        signs = [(path, told.st_size, told.st_mtime_ns) for path, told in found]
        if signs == self._results:
            return
        self._results = signs
        told = results_beside(whole).results
        for run in self.runs.values():
            run.tell(told.get(run.told.id))

    def _look(self, log: str) -> bool:
        try:
            with (self.folder / log).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                begin = self._read_bytes[log]
                if size < begin:  # another file by this name
                    self._begin()
                    return True
                searched = self._searched_bytes[log]
                if size < searched:  # what was torn is written anew
                    searched = begin
                file.seek(searched)
                data = file.read(LOOK_BYTES)
                whole = data.rfind(b"\n") + 1
                self._searched_bytes[log] = searched + (whole or len(data))
                if not whole:
                    return searched + len(data) < size
                if searched > begin:
                    file.seek(begin)
                    data, whole = file.read(searched + whole - begin), searched + whole - begin
        except FileNotFoundError:
            return False
        self._read(log, data[:whole], begin)
        self._read_bytes[log] = begin + whole
        return begin + whole < size

    def _read(self, log: str, data: bytes, begin: int) -> None:
        decode = _DECODERS[log].decode
        for line in data.splitlines(keepends=True) if b"\r" not in data else _lines(data):
            self._lines[log] += 1
            if line.strip():
                try:
                    self._take(log, decode(line), begin, len(line))
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                    self._skip(log, str(error))
            begin += len(line)

    def _take(self, log: str, record: Any, offset: int, length: int) -> None:
        if record.v > records.SCHEMA_VERSION:
            self._skip(log, f"schema version {record.v} is newer than this")
        elif record.run is None or self._only not in (None, record.run):
            return
        elif isinstance(record, CallLine):
            self._run(record.run).add_call(record, offset, length)
        elif log == records.SUPERVISOR_LOG:  # the processes of the other log are the same
            self._run(record.run).add(record)

    def _run(self, run: str) -> RunFacts:
        if run not in self.runs:
            self.runs[run] = RunFacts(run, self.folder, f"{self.number}.{len(self.runs)}")
        return self.runs[run]

    def _skip(self, log: str, reason: str) -> None:
        self.skipped_lines += 1
        if len(self.skipped) < SKIPPED_KEPT:
            self.skipped.append(Skipped(log, self._lines[log], reason))

    def lines(self, run: RunFacts, rows: range) -> Iterator[bytes]:
        """The lines of calls, as they stand in the file, one at a time. Raises OSError."""
        with (self.folder / records.WORKER_LOG).open("rb") as file:
            for row in rows:
                yield os.pread(file.fileno(), run.calls.lengths[row], run.calls.offsets[row])


class _OfRun(msgspec.Struct):
    run: str | None = None


def runs_in(folder: Path) -> list[str]:
    """The ids of the runs of a folder, in the order in which they began."""
    decode = msgspec.json.Decoder(_OfRun).decode
    found: dict[str, None] = {}
    with (folder / records.SUPERVISOR_LOG).open("rb") as file:
        for line in file:
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                if (run := decode(line).run) is not None:
                    found[run] = None
    return list(found)


def whole_call(line: bytes) -> records.Call:
    """A call's line with all that it has. Raises msgspec.MsgspecError."""
    return records.whole(_CALL.decode(line))


def _lines(data: bytes) -> list[bytes]:
    """Lines as a file has them: only a line feed ends one."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]]


def lock_holders(folders: list[FollowedFolder]) -> dict[int, int]:
    """The pid of the driver that writes each folder, by the folder's number.

    From /proc/locks: to try the lock would have a driver that starts just then refuse the folder.
    """
    wanted = {}
    for each in folders:
        try:
            told = (each.folder / ".lock").stat()
        except OSError:
            continue
        device = f"{os.major(told.st_dev):02x}:{os.minor(told.st_dev):02x}"
        wanted[f"{device}:{told.st_ino}"] = each.number
    try:
        locks = Path("/proc/locks").read_text()
    except OSError:
        return {}
    found = {}
    for line in locks.splitlines():
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK" and words[5] in wanted:
            found[wanted[words[5]]] = int(words[4])
    return found
