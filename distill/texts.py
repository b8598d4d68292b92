"""Texts that several runs ask about at the same time: read once, held once."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from distill.errors import InputError
from distill.inputs import STDIN, read_context, read_json

READ_AT_ONCE = 2


class Text:
    """A context, and the names of its sources; held while somebody uses it."""

    __slots__ = ("__weakref__", "context", "lock", "sources")

    def __init__(self, context: Any = None, sources: Sequence[str] = ()) -> None:
        self.context = context
        self.sources = tuple(sources)
        self.lock = threading.Lock()
        """Held by who reads it; the context is None until then."""


class Texts:
    """Reads files; who asks for the same ones while they are in use gets the same text.

    A file that has changed is read again. Few read at a time: it takes memory. Thread-safe.
    """

    def __init__(self) -> None:
        self._held: WeakValueDictionary[Any, Text] = WeakValueDictionary()
        self._lock = threading.Lock()
        self._few = threading.Semaphore(READ_AT_ONCE)

    def read(self, paths: Sequence[str], encoding: str = "utf-8", *, as_json: bool = False) -> Text:
        """The text at these paths (``read_context``), or the JSON value. Raises InputError."""
        key = (tuple(paths), encoding, as_json, _state(paths))
        with self._lock:
            held = self._held.get(key)
            if held is None:
                held = self._held[key] = Text()
        with held.lock:
            if held.context is None:
                with self._few:
                    read = (read_json(paths[0]), ()) if as_json else read_context(paths, encoding)
                held.context, held.sources = read[0], tuple(read[1])
        return held


def _state(paths: Sequence[str]) -> tuple[Any, ...]:
    """What tells whether files have changed since."""
    return tuple((str(file), *_stamp(file)) for path in paths for file in _files(path))


def _files(path: str) -> Iterator[Path]:
    place = Path(path)
    yield place
    if path != STDIN and place.is_dir():
        yield from sorted(place.rglob("*"))


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        now = file.stat()
    except (OSError, ValueError):
        return ()  # who reads it says what is wrong
    return (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)


def changed_since(paths: Sequence[str], t: float) -> bool:
    """Whether one of the files was written after this moment, or is not there any more."""
    try:
        return any(file.stat().st_mtime > t for path in paths for file in _files(path))
    except OSError as error:
        raise InputError(f"{error.filename} can't be read: {error.strerror}") from error
