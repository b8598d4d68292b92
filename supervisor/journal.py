"""The journal: the two logs of a folder, and the one hand that writes them.

A batch of records is one write, made before any of its answers is released: a call counts
as done when it is in the log. Writes go to the kernel at once, so a killed driver loses
nothing that it wrote.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from distill.errors import InputError
from distill.redaction import Redaction
from distill.supervisor.redacted import RunRedactor
from distill.supervisor.text import printable_json
from distill.traces import records
from distill.traces.contexts import texts_of
from distill.user_folders import make_private

READ_BYTES = 1 << 16
"""Read at a time when a line is looked up."""


Listener = Callable[[Sequence[records.AnyRecord]], None]
"""Hears records once they are written; it must neither block nor raise."""


def now() -> float:
    """The wall clock, in seconds since 1970, as records carry it."""
    return time.time()


class Journal:
    """Append-only writer of one log folder. Raises InputError if it can't be used.

    Thread-safe. One driver a folder at a time; a torn last line of an earlier one is closed
    off, and what other processes spooled when their driver was gone is merged in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._encoder = msgspec.json.Encoder()
        self._lock = threading.Lock()
        self._lock_fd = -1
        self._files: dict[str, int] = {}
        self._redactors: dict[str, RunRedactor | None] = {}
        """By run, while it lasts; None: all of it is written as it is."""
        self._redactions: dict[Redaction, RunRedactor] = {}
        """What is blotted out of records of no run, or of one that is not known; they know no text
        of a run."""
        self._listeners: tuple[Listener, ...] = ()
        try:
            make_private(folder / records.CONTEXT_FOLDER)
            self._lock_fd = self._take(folder / ".lock")
            for log in records.LOG_RECORDS:
                self._files[log] = self._open(folder / log)
        except OSError as error:
            self.close()
            raise InputError(
                f"the log folder {folder} can't be used: {error.strerror or error}. "
                "Choose another with --log-dir."
            ) from error
        self._merge_spool()

    def _take(self, path: Path) -> int:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(
                f"another distill is writing to {self.folder}. Choose another with --log-dir."
            ) from None
        return descriptor

    @staticmethod
    def _open(path: Path) -> int:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            os.write(descriptor, b"\n")
        return descriptor

    def write(self, log: str, lines: Sequence[records.AnyRecord]) -> list[int]:
        """Append records to one log, in one write; at which bytes of it the lines begin.

        Raises OSError if the disk refuses.
        """
        if not lines:
            return []
        if self._redactions:
            lines = [self._redacted(line) for line in lines]
        data, begins = bytearray(), []
        for line in lines:
            begins.append(len(data))
            try:
                self._encoder.encode_into(line, data, -1)
            except UnicodeEncodeError:
                data[begins[-1] :] = self._printable(line)
            data += b"\n"
        start = self._append(log, data)
        for hear in self._listeners:
            hear(lines)
        return [start + begin for begin in begins]

    @contextlib.contextmanager
    def heard(self, hear: Listener) -> Iterator[None]:
        """While the context lasts ``hear`` is called with what was written, as it was written."""
        self._listeners = (*self._listeners, hear)
        try:
            yield
        finally:
            self._listeners = tuple(each for each in self._listeners if each is not hear)

    def redact(self, redaction: Redaction) -> None:
        """Blot this out of what is written of no run in particular, from now on."""
        if redaction:
            self._redactions[redaction] = RunRedactor(redaction)

    def enter(self, run: str, redactor: RunRedactor | None) -> None:
        """A run begins, and this is how its records are redacted (None: not)."""
        self._redactors[run] = redactor
        if redactor is not None:
            self.redact(redactor.redaction)

    def leave(self, run: str) -> None:
        """A run has ended, or never began: whatever is still said of it is of no known run."""
        self._redactors.pop(run, None)

    def _redacted(self, line: records.AnyRecord) -> records.AnyRecord:
        redactors: Iterable[RunRedactor | None]
        try:
            redactors = (self._redactors[line.run or ""],)
        except KeyError:
            redactors = tuple(self._redactions.values())
        for each in redactors:
            line = line if each is None else each.record(line)
        return line

    def _printable(self, line: records.AnyRecord) -> bytes:
        """A line with lone surrogates, which JSON can't hold."""
        plain = msgspec.to_builtins(line, enc_hook=msgspec.json.decode)  # Raw: is JSON
        return self._encoder.encode(printable_json(plain))

    def _append(self, log: str, data: bytes | bytearray) -> int:
        with self._lock:
            if log not in self._files:
                raise OSError(errno.EBADF, "the journal is closed")
            descriptor = self._files[log]
            start = os.lseek(descriptor, 0, os.SEEK_END)
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(descriptor, view) :]
            except OSError:
                # All of a batch or none: what was refused is not in the log, and the next line
                # does not begin in the middle of one.
                os.ftruncate(descriptor, start)
                raise
        return start

    def line(self, log: str, start: int) -> bytes:
        """The line of one log that begins at this byte. Raises OSError if it can't be read."""
        line = b""
        while b"\n" not in line:
            with self._lock:
                if log not in self._files:
                    raise OSError(errno.EBADF, "the journal is closed")
                piece = os.pread(self._files[log], READ_BYTES, start + len(line))
            if not piece:
                raise OSError(errno.ENODATA, f"{log} has no line at byte {start}")
            line += piece
        return line.partition(b"\n")[0]

    def supervisor(self, *lines: records.SupervisorRecord) -> None:
        """Append to supervisor.jsonl."""
        self.write(records.SUPERVISOR_LOG, lines)

    def worker(self, lines: Iterable[records.WorkerRecord]) -> list[int]:
        """Append to worker.jsonl; at which bytes of it the lines begin."""
        return self.write(records.WORKER_LOG, list(lines))

    def store_context(
        self, context: Any, sources: Sequence[str] = ()
    ) -> tuple[records.ContextRef, Path]:
        """Store a str, list or dict once, by hash; returns its reference and its file.

        Raises InputError for a text with lone surrogates, or a value that JSON can't hold.
        """
        kind, data, chars = encode_context(context)
        name, digest = stored_name(kind, data)
        path = self.folder / name
        if not path.exists():
            _write_whole(path, data)
        ref = records.ContextRef(digest, kind, chars, len(data), name, tuple(sources))
        return ref, path

    def _merge_spool(self) -> None:
        for path in sorted((self.folder / records.SPOOL_FOLDER).glob("*.jsonl")):
            data = path.read_bytes()
            if data:
                self._append(records.SUPERVISOR_LOG, data if data.endswith(b"\n") else data + b"\n")
            path.unlink()

    def close(self) -> None:
        """Close the files and let the folder go."""
        with self._lock:
            for descriptor in (*self._files.values(), self._lock_fd):
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            self._files, self._lock_fd = {}, -1


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file that is never seen half-written, whoever else writes the same."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(draft).rename(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def stored_name(kind: str, data: bytes) -> tuple[str, str]:
    """The path in a log folder of a context of these bytes, and their hash."""
    digest = hashlib.sha256(data).hexdigest()
    return f"{records.CONTEXT_FOLDER}/{digest}.{'txt' if kind == 'text' else 'json'}", digest


def encode_context(context: Any) -> tuple[Any, bytes, int]:
    """``(kind, bytes, characters)`` of a context. Raises InputError where there are none."""
    try:
        if isinstance(context, str):
            return "text", context.encode("utf-8"), len(context)
        if isinstance(context, list | dict):
            _check_keys(context)
            data = json.dumps(context, ensure_ascii=False, allow_nan=False).encode("utf-8")
            return "json", data, sum(len(text) for _, text in texts_of(context))
    except UnicodeEncodeError as error:
        raise InputError(
            f"the context has a lone surrogate at character {error.start}: decode its bytes "
            "with errors='replace' first"
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the context must hold only JSON values: {error}") from None
    raise InputError(f"the context must be a str, list or dict, not {type(context).__name__}")


def _check_keys(value: Any) -> None:
    """Raise TypeError for a dict key that JSON would change."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(value, dict) and not isinstance(key, str):
            raise TypeError(f"a dict's keys must be str, not {type(key).__name__}")
        if isinstance(item, dict | list | tuple):
            _check_keys(item)
