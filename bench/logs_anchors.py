"""The same lines written in other ways; imports nothing of distill.

``python logs_anchors.py json|structlog LINES OUT``: a file of lines, and one to write to. Prints
the processor seconds of turning their fields into lines again and of writing these, a hundred at a
time.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

AT_ONCE = 100


def plain_json(file: TextIO) -> Callable[[dict[str, Any]], None]:
    """A line as ``json`` makes it."""

    def write(fields: dict[str, Any]) -> None:
        file.write(json.dumps(fields) + "\n")

    return write


def with_structlog(file: TextIO) -> Callable[[dict[str, Any]], None]:
    """A line as structlog makes it, with nothing else in its chain."""
    import structlog

    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(file),
        cache_logger_on_first_use=True,
    )
    log = structlog.get_logger()

    def write(fields: dict[str, Any]) -> None:
        log.info("call", **fields)

    return write


def main() -> None:
    """Write them, and say what it took."""
    make = {"json": plain_json, "structlog": with_structlog}[sys.argv[1]]
    with Path(sys.argv[2]).open(encoding="utf-8") as lines:
        calls = [json.loads(line) for line in lines]
    with Path(sys.argv[3]).open("w", encoding="utf-8") as file:
        write = make(file)
        begun_s = time.process_time()
        for first in range(0, len(calls), AT_ONCE):
            for fields in calls[first : first + AT_ONCE]:
                write(fields)
            file.flush()
        print(json.dumps({"answers": len(calls), "write_s": time.process_time() - begun_s}))


if __name__ == "__main__":
    main()
