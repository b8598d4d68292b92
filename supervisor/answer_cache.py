"""Answers by what was asked and of which weights, so that the same is not asked twice.

Only answers that would come out the same are kept: greedy ones, and those with a seed. Whoever asks
for a sample wants another one each time.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from distill.errors import InputError
from distill.protocol import worker_link as wire
from distill.supervisor.ledger import content_hash
from distill.supervisor.requests import request_key
from distill.traces import records
from distill.user_folders import cache_folder, make_private

AnswerCaching = Literal["off", "run", "shared"]
RUN_LIMIT_BYTES = 256 << 20
SHARED_LIMIT_BYTES = 1 << 30
ASKED_FOR_LIMIT = 1000
"""Answers that were asked for, of which the file is not told yet."""
SPARED_SHARE = 0.8
"""Of the limit, what is left after the answers that were not asked for longest have gone."""
LOCKED_S = 0.2
"""Another process writes: rather ask the worker again than keep every run waiting."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, used REAL NOT NULL, answer BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_by_use ON answers (used);
"""


class Known(msgspec.Struct, frozen=True):
    """An answer that a worker gave before."""

    prompt: str
    response: str
    finish_reason: str | None
    model: records.Model


def answer_key(request: wire.Request, card: wire.ModelCard | None, name: str) -> str | None:
    """The hash of all that determines an answer; None where it would be another each time.

    ``card`` is what answers; where nobody knows, the ``name`` has to do.
    """
    if request.sampling.temperature > 0 and request.sampling.seed is None:
        return None
    weights = [name]
    if card is not None:
        hashes = (card.weights_hash, card.tokenizer_hash, card.template_hash, card.adapter_hash)
        weights = [*hashes, card.dtype, card.engine, card.engine_version]
        if request.sampling.max_tokens is None:  # the answer may fill the window
            weights.append(str(card.window_tokens))
    return content_hash([weights, request_key(request)])


class AnswerCache:
    """Answers in a file that several processes may use, or in memory where ``path`` is None.

    When they exceed ``limit_bytes``, those that were not asked for longest go. A cache that can't
    be read or written for a while has no answer; it fails nobody. Raises InputError for a file
    that is no cache.
    """

    def __init__(self, path: Path | None, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._asked_for: dict[str, float] = {}
        """When, by key."""
        if path is not None:
            _make_private(path)
        try:
            self._file = sqlite3.connect(
                path or ":memory:", timeout=LOCKED_S, isolation_level=None, check_same_thread=False
            )
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=OFF")  # a power cut may cost the cache
            self._file.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise InputError(
                f"the answer cache {path} can't be used ({error}): delete it, or leave out "
                "--answer-cache shared"
            ) from error

    def find(self, key: str | None) -> Known | None:
        """The answer under this key."""
        if key is None:
            return None
        try:
            row = self._file.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
            known = None if row is None else msgspec.msgpack.decode(row[0], type=Known)
        except (sqlite3.Error, msgspec.DecodeError):
            return None
        if known is not None:
            self._asked_for[key] = time.time()
            if len(self._asked_for) >= ASKED_FOR_LIMIT:
                self._write([])
        return known

    def keep(self, answers: Iterable[tuple[str | None, Known]]) -> None:
        """Keep these answers, but for those that have no key."""
        now = time.time()
        rows = [
            (key, now, msgspec.msgpack.encode(known)) for key, known in answers if key is not None
        ]
        if rows:
            self._write(rows)

    def _write(self, rows: list[tuple[str, float, bytes]]) -> None:
        # Forgotten where the file is busy: it would be tried again with each answer.
        asked_for, self._asked_for = self._asked_for, {}
        used = [(when, key) for key, when in asked_for.items()]
        with contextlib.suppress(sqlite3.Error):
            self._file.execute("BEGIN IMMEDIATE")
            try:
                self._file.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)
                self._file.executemany("UPDATE answers SET used = ? WHERE key = ?", used)
                self._make_room()
            finally:
                self._file.execute("COMMIT")

    def _make_room(self) -> None:
        size_bytes = self.size_bytes
        if size_bytes <= self._limit_bytes:
            return
        (count,) = self._file.execute("SELECT count(*) FROM answers").fetchone()
        too_many = int(count * (1 - SPARED_SHARE * self._limit_bytes / size_bytes)) + 1
        self._file.execute(
            "DELETE FROM answers WHERE key IN (SELECT key FROM answers ORDER BY used LIMIT ?)",
            (too_many,),
        )

    @property
    def size_bytes(self) -> int:
        """Bytes in use."""
        told = [
            int(self._file.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        ]
        return (told[0] - told[1]) * told[2]

    def close(self) -> None:
        """Note what was asked for, and let go of the file."""
        if self._asked_for:
            self._write([])
        self._file.close()


def _make_private(path: Path) -> None:
    """It holds parts of texts that were asked about: nobody else reads it."""
    try:
        make_private(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputError(f"the answer cache {path} can't be made: {error.strerror}") from error


def shared_path() -> Path:
    """Where this user's runs share their answers."""
    return cache_folder() / "answers.sqlite"


def open_cache(caching: AnswerCaching) -> AnswerCache | None:
    """A run's cache; None where it has none."""
    if caching == "off":
        return None
    if caching == "run":
        return AnswerCache(None, RUN_LIMIT_BYTES)
    return AnswerCache(shared_path(), SHARED_LIMIT_BYTES)
