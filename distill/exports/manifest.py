"""``manifest.json``: what went in, what was asked for, what came out, and what did not."""

import dataclasses
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from distill.exports.choice import Choice
from distill.exports.made import Export
from distill.exports.reading import SKIPPED_TOLD, InputFile, Source
from distill.exports.writing import file_name, sha256
from distill.supervisor.journal import now
from distill.supervisor.text import printable_json
from distill.traces import records
from distill.version import __version__

FILE = "manifest.json"
MANIFEST_VERSION = 1


def made(
    choice: Choice,
    read: Sequence[Source],
    results: Sequence[InputFile],
    export: Export,
    folder: Path,
) -> dict[str, Any]:
    """The manifest of the data set in ``folder``; ``results`` are files with scores of its runs."""
    return {
        "manifest_version": MANIFEST_VERSION,
        "made_at_s": now(),
        "versions": _versions(choice),
        "options": _options(choice),
        "inputs": [_input(source) for source in read],
        "results": [_file(str(each.path), each) for each in results],
        "runs": {
            "read": export.runs_read,
            "chosen": export.runs,
            "dropped": dict(export.dropped_runs.most_common()),
        },
        "rows": {
            "written": sum(export.rows.values()),
            "dropped": dict(export.dropped_rows.most_common()),
        },
        "files": [
            {
                "file": name,
                "split": split,
                "rows": count,
                "bytes": (folder / name).stat().st_size,
                "sha256": sha256(folder / name),
            }
            for split, count in export.rows.items()
            if (folder / (name := file_name(split, choice.as_))).exists()
        ],
        "warnings": export.warnings,
    }


def _options(choice: Choice) -> dict[str, Any]:
    named = dataclasses.replace(choice, format=choice.wanted_format().name)
    return {name.rstrip("_"): value for name, value in msgspec.to_builtins(named).items()}


def _versions(choice: Choice) -> dict[str, str]:
    found = {
        "distill": __version__,
        "schema": str(records.SCHEMA_VERSION),
        "python": platform.python_version(),
    }
    if choice.as_ == "parquet":
        from distill.exports.columns import pyarrow

        found["pyarrow"] = pyarrow().__version__
    return found


def _input(source: Source) -> dict[str, Any]:
    skipped = [f"{each.file}:{each.line}: {each.reason}" for each in source.skipped[:SKIPPED_TOLD]]
    return {
        "folder": str(source.folder),
        "runs": "all" if source.only is None else sorted(source.only),
        "files": [_file(each.path.name, each) for each in source.files],
        "skipped_lines": len(source.skipped),
        "skipped": skipped,
    }


def _file(name: str, file: InputFile) -> dict[str, Any]:
    return {"file": name, "bytes": file.bytes, "sha256": file.sha256}


def as_json(manifest: dict[str, Any]) -> bytes:
    """The manifest as the file holds it."""
    encoded = msgspec.json.encode(printable_json(manifest))
    return msgspec.json.format(encoded, indent=1) + b"\n"
