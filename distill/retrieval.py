"""``retrieve``: passages of the context by what they mean, with a small embedding model.

Every passage is read once, at the first call: some 20 a second on 2 cores. What was read is kept in
memory for the runs about the text, and in the user's cache for the next run over the same text.
"""

import contextlib
import functools
import hashlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from distill.caller import is_gone
from distill.minilm import SIZE, Floats, loaded, one_thread_a_product
from distill.passages import PASSAGE_CHARS, Passages
from distill.primitives import primitive
from distill.search import check_query
from distill.user_folders import cache_folder, make_private

LOG = logging.getLogger("distill")
BATCH = 8
THREADS_LIMIT = 16
READING_LIMIT_S = 900.0
"""What takes longer to read, by the pace of the first seconds, is refused."""
PACE_S = 3.0
"""How long the pace is measured before anything is said or refused."""
TOLD_FROM_S = 20.0
"""From how long a reading on the user is told that it takes a while."""
KEPT_FROM = 100
"""Passages from which on a reading is kept for other runs."""
KEPT_FILES = 50
LOOK_S = 0.5
"""How often who waits for another run's reading looks whether anybody still waits for him."""


def make(rollout: Any) -> Callable[..., Any]:
    """``retrieve`` over a run's context; runs about one text share its reading."""
    reading = UnkeptReading if rollout.options.redaction else Reading
    return _retrieve(lambda: rollout.text.made(reading))


def retrieve_over(context: Any) -> Callable[..., list[dict[str, Any]]]:
    """``retrieve`` over a str, list or dict, which is read when it is first called."""
    return _retrieve(functools.cache(lambda: Reading(context)))


def _retrieve(reading: "Callable[[], Reading]") -> Callable[..., list[dict[str, Any]]]:
    """``retrieve`` with what ``reading`` gives at each call, one call at a time."""
    lock = threading.Lock()

    @primitive(egress=False)
    def retrieve(query: str, k: int = 10) -> list[dict[str, Any]]:
        """The k passages (k up to 100) nearest in meaning to the query, by embeddings: dicts of \
        text, part, start, end, score (cosine), best first; `context[start:end]`, or \
        `context[part][start:end]` of a list or dict, is the text. The first call may take minutes.

        Of a cell's arguments nothing is trusted: raises ValueError, TypeError, and TimeoutError
        for a text that would take more than READING_LIMIT_S to read. Sends nothing out.
        """
        check_query(query, k)
        with lock, one_thread_a_product():
            return reading().nearest(query, k)

    return retrieve


class Reading:
    """The vectors of a context's passages, as far as they have been read.

    Any number of threads may ask: one reads, the others wait for it.
    """

    is_kept = True

    def __init__(self, context: Any) -> None:
        self._passages = Passages(context)
        self._cuts = [cut for cut in self._passages.cuts if self._passages.read(cut).strip()]
        self._vectors: Floats = np.zeros((len(self._cuts), SIZE), dtype=np.float32)
        self._done = 0
        self._model = loaded()
        self._lock = threading.Lock()

    def nearest(self, query: str, k: int) -> list[dict[str, Any]]:
        """The k passages whose vectors are nearest to the query's."""
        while not self._lock.acquire(timeout=LOOK_S):
            _check_waited_for()
        try:
            self._read()
        finally:
            self._lock.release()
        (asked,) = self._model.vectors([query])
        scores = self._vectors @ asked
        best = (-scores).argsort(kind="stable")[:k]
        return [self._passages.found(self._cuts[place], float(scores[place])) for place in best]

    def _read(self) -> None:
        """Read what has not been read yet; a call that is cut off leaves the rest to the next one.

        Raises TimeoutError: it would take too long, or nobody waits for it any more.
        """
        if self._done == len(self._cuts):
            return
        kept = _Kept(self._passages.read(cut) for cut in self._cuts)
        if self._done == 0 and (vectors := kept.vectors(len(self._cuts))) is not None:
            self._vectors, self._done = vectors, len(self._cuts)
            return
        pace = _Pace(len(self._cuts) - self._done)
        threads = min(len(os.sched_getaffinity(0)), THREADS_LIMIT)
        with ThreadPoolExecutor(threads, "distill-retrieve") as pool:
            while self._done < len(self._cuts):
                cuts = self._cuts[self._done : self._done + threads * BATCH]
                texts = [self._passages.read(cut) for cut in cuts]
                batches = [texts[at : at + BATCH] for at in range(0, len(texts), BATCH)]
                vectors = np.concatenate(list(pool.map(self._model.vectors, batches)))
                self._vectors[self._done : self._done + len(cuts)] = vectors
                self._done += len(cuts)
                pace.read(len(cuts))
        if len(self._cuts) >= KEPT_FROM and self.is_kept:
            kept.keep(self._vectors)


class UnkeptReading(Reading):
    """Of a text that is redacted wherever it is written: its vectors would tell something of it."""

    is_kept = False


def _check_waited_for() -> None:
    if is_gone():
        raise TimeoutError("nobody waits for retrieve any more")


class _Pace:
    """How fast passages are read: whether it is worth the while, told once."""

    def __init__(self, passages: int) -> None:
        self._passages = passages
        self._done = 0
        self._started_s = time.monotonic()
        self._judged = False

    def read(self, passages: int) -> None:
        """Some more have been. Raises TimeoutError: too slow, or nobody waits."""
        self._done += passages
        elapsed_s = time.monotonic() - self._started_s
        _check_waited_for()
        if self._judged or elapsed_s < PACE_S:
            return
        self._judged = True
        needed_s = elapsed_s / self._done * self._passages
        if needed_s > READING_LIMIT_S:
            raise TimeoutError(
                f"to read the text's {self._passages:,} passages would take some "
                f"{needed_s / 60:.0f} min here, retrieve takes {READING_LIMIT_S / 60:.0f} at most: "
                "rank by words instead (search), or with code"
            )
        if needed_s > TOLD_FROM_S:
            LOG.warning(
                "distill: retrieve reads %s passages first: some %.1f min",
                f"{self._passages:,}",
                needed_s / 60,
            )


class _Kept:
    """The vectors of one text in the user's cache, by a hash of its passages."""

    def __init__(self, passages: Any) -> None:
        digest = hashlib.sha256(f"all-MiniLM-L6-v2 {PASSAGE_CHARS}".encode())
        for passage in passages:
            digest.update(hashlib.sha256(passage.encode()).digest())
        self._path = cache_folder() / "embeddings" / f"{digest.hexdigest()}.npy"

    def vectors(self, count: int) -> Floats | None:
        """What is kept, if it is whole."""
        try:
            kept = np.load(self._path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        if kept.shape != (count, SIZE) or kept.dtype != np.float16:
            return None
        with contextlib.suppress(OSError):
            self._path.touch()
        return np.asarray(kept, dtype=np.float32)

    def keep(self, vectors: Floats) -> None:
        """Write them, for their owner alone; the files that were used longest ago make room."""
        folder = self._path.parent
        with contextlib.suppress(
            OSError
        ):  # a full disk or a read-only home costs the next run time
            make_private(folder)
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
                try:
                    np.save(file, vectors.astype(np.float16))
                    file.close()
                    Path(file.name).replace(self._path)
                except OSError:
                    Path(file.name).unlink(missing_ok=True)
                    raise
            files = sorted(folder.glob("*.npy"), key=lambda path: path.stat().st_mtime)
            for old in files[:-KEPT_FILES]:
                old.unlink(missing_ok=True)
