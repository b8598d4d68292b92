"""What a cell prints, on its way out: through ``sys.stdout`` or past it, bounded, in order.

``print`` reaches the keeper at once, a write at a time: what a cell printed survives its
death. Writes past ``sys`` (``os.write(1, …)``, C code) go to the unlinked file that is behind the
descriptor since the jail was shut, which never blocks the writer; they are collected before every
call and at the end.
"""

from __future__ import annotations

import codecs
import io
import os
import sys

from distill.sandbox.jail.channel import Channel

TYPE_CHECKING = False  # importing typing would double the time to start
if TYPE_CHECKING:
    from typing import Any

CHUNK_BYTES = 256 << 10
STREAMS = {"stdout": 1, "stderr": 2}


class Printer:
    """Both streams of one cell, and the count of what they carried."""

    def __init__(self, channel: Channel, limit_bytes: int) -> None:
        self._channel = channel
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self.dropped_bytes = 0
        self._files = {name: _Bypass(name, fd) for name, fd in STREAMS.items()}
        self._streams = {name: _text_stream(name, self) for name in STREAMS}

    def start_cell(self) -> None:
        """Give the cell both streams, whatever the last one did to them, and its allowance."""
        self._used_bytes = self.dropped_bytes = 0
        for name in STREAMS:
            if not _is_usable(self._streams[name]):
                self._streams[name] = _text_stream(name, self)
            setattr(sys, name, self._streams[name])

    def emit(self, stream: str, text: str) -> None:
        """Send text as far as the allowance goes; the rest is counted."""
        size = len(text) if text.isascii() else len(text.encode())
        room = self._limit_bytes - self._used_bytes
        if size > room:
            self.dropped_bytes += size - room
            text = text.encode()[:room].decode("utf-8", "ignore")
        self._used_bytes += min(size, room)
        if text:
            self._channel.send({"type": "Output", "stream": stream, "text": text})

    def collect(self) -> None:
        """Send what was written past ``sys``."""
        for name, file in self._files.items():
            while text := file.read():
                self.emit(name, text)


class _Bypass:
    """The file behind descriptor 1 or 2."""

    def __init__(self, name: str, fd: int) -> None:
        self._file = os.dup(fd)  # a cell may close the other
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.name = name

    def read(self) -> str:
        if os.fstat(self._file).st_size <= self._offset:
            return ""
        data = os.pread(self._file, CHUNK_BYTES, self._offset)
        self._offset += len(data)
        if os.fstat(self._file).st_size == self._offset:
            os.ftruncate(self._file, 0)
            self._offset = 0
        return self._decoder.decode(data) or "\N{REPLACEMENT CHARACTER}"


class _Raw(io.RawIOBase):
    """Bytes in, Output messages out."""

    def __init__(self, name: str, printer: Printer) -> None:
        super().__init__()
        self._name = name
        self._printer = printer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def is_fresh(self) -> bool:
        """Whether no bytes wait for the rest of their character."""
        return not self._decoder.getstate()[0]

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return STREAMS[self._name]

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(data).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            text = self._decoder.decode(view[start : start + CHUNK_BYTES])
            if text:
                self._printer.emit(self._name, text)
        return len(view)


def _is_usable(stream: io.TextIOWrapper) -> bool:
    """Whether it is neither closed nor detached, and ends in no half character."""
    try:
        raw: Any = stream.buffer
        return not raw.closed and raw.is_fresh
    except ValueError:
        return False


def _text_stream(name: str, printer: Printer) -> io.TextIOWrapper:
    raw: Any = _Raw(name, printer)
    # Lone surrogates are replaced; write_through: nothing waits in a buffer that a kill would lose.
    return io.TextIOWrapper(raw, encoding="utf-8", errors="replace", write_through=True)
