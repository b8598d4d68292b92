"""What it takes to open a log folder in one of several ways, alone in its process.

``python logs_reading.py WAY FOLDER OUT``. Prints ``Took``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass
class Took:
    """Seconds and memory at its most, for so many ``calls`` (rows, of an export)."""

    calls: int
    wall_s: float
    cpu_s: float
    peak_mib: float


def plain_json(folder: Path, _out: Path) -> int:
    """The anchor: each line through ``json``, and nothing made of it."""
    with (folder / "worker.jsonl").open(encoding="utf-8") as log:
        return sum(json.loads(line)["type"] == "call" for line in log)


def calls(folder: Path, _out: Path) -> int:
    """``Logs.calls``: each with what it belongs to."""
    from distill.traces import Logs

    return sum(1 for _ in Logs(folder).calls())


def read(folder: Path, _out: Path) -> int:
    """``read``: all of it in memory."""
    from distill.traces import read

    return sum(len(run.calls) for run in read(folder).runs.values())


def frame(folder: Path, _out: Path) -> int:
    """``frame``: as a DataFrame."""
    from distill.traces import frame

    return len(frame(folder))


def validate(folder: Path, _out: Path) -> int:
    """``distill doctor FOLDER``. Raises RuntimeError if it finds anything."""
    from distill.traces import validate

    trace, problems = validate(folder)
    if problems:
        raise RuntimeError(f"the synthetic run is damaged: {problems[:3]}")
    return sum(trace.call_counts.values())


def _exported(format_: str, kind: str) -> Callable[[Path, Path], int]:
    def export(folder: Path, out: Path) -> int:
        from distill import export

        return sum(export(folder, out, format=format_, as_=kind).rows.values())

    return export


WAYS: dict[str, Callable[[Path, Path], int]] = {
    "plain json": plain_json,
    "Logs.calls()": calls,
    "read()": read,
    "frame()": frame,
    "distill doctor": validate,
    "export worker-sft, JSONL": _exported("worker-sft", "jsonl"),
    "export worker-sft, Parquet": _exported("worker-sft", "parquet"),
    "export token-sft, JSONL": _exported("token-sft", "jsonl"),
    "export token-sft, Parquet": _exported("token-sft", "parquet"),
}


def main() -> None:
    """Do it, and say what it took."""
    begun_s = time.perf_counter()
    count = WAYS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
    wall_s = time.perf_counter() - begun_s
    print(json.dumps(asdict(Took(count, wall_s, time.process_time(), peak_mib()))))


def peak_mib() -> float:
    """Memory at its most since this program began; ``ru_maxrss`` has its parent's as well."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
