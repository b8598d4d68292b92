"""The versions of a worker: who came from whom, by which data, and what became of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from distill.training.decision import Decision
from distill.training.markers import write_whole

FILE = "lineage.jsonl"
OF_AN_ADAPTER = "lineage.json"
"""Beside the weights of one version."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version. Number 0 is the worker as it is: it has no parent or data, and an adapter only
    if the loop was given one. One that collapsed while it was trained has no adapter, and nothing
    that was measured with it.

    ``adapter`` is its folder, relative to the loop's (of version 0 an absolute path);
    ``adapter_sha256`` is of its files, as worker servers compute it and calls in logs have it
    (``adapter_hash``). ``data_manifest_sha256`` is of
    the data set's ``manifest.json``. ``settings`` are those of the training; of the worker and
    of adapters they have no path, but name and hash. ``steps`` are the optimiser's.
    ``accuracy`` is that of the held-out tasks.
    """

    version: int
    parent: int | None = None
    kept: bool = True
    why: str = "the worker as it is"
    method: str | None = None
    adapter: str | None = None
    adapter_sha256: str = ""
    data_manifest_sha256: str = ""
    rows: int = 0
    settings: dict[str, Any] = {}
    steps: int = 0
    accuracy: float | None = None
    decision: Decision | None = None


def write_lineage(out: Path, versions: Sequence[Version]) -> None:
    """The versions, a line each, and in each adapter's folder its own. Raises OSError."""
    for each in versions:
        if each.version and each.adapter is not None:
            beside = out / each.adapter / OF_AN_ADAPTER
            _if_new(beside, msgspec.json.format(msgspec.json.encode(each), indent=1) + b"\n")
    _if_new(out / FILE, b"".join(msgspec.json.encode(each) + b"\n" for each in versions))


def _if_new(path: Path, data: bytes) -> None:
    """What says the same already keeps its time."""
    if not path.is_file() or path.read_bytes() != data:
        write_whole(path, data)
