"""The logs of distill: their records, how to read them back, how to check them.

``supervisor.jsonl`` and ``worker.jsonl`` of one folder are the whole truth about its runs;
``docs/log-schema.md`` explains every field, ``docs/traces.md`` how to read them, and
``distill/schema/`` holds the JSON Schemas.
"""

from distill.traces.frames import frame
from distill.traces.joined import Chunk, JoinedCall, JoinedCell, JoinedTurn, Logs
from distill.traces.reading import Run, Skipped, Trace, read
from distill.traces.rows import rows
from distill.traces.validation import Problem, validate

__all__ = [
    "Chunk",
    "JoinedCall",
    "JoinedCell",
    "JoinedTurn",
    "Logs",
    "Problem",
    "Run",
    "Skipped",
    "Trace",
    "frame",
    "read",
    "rows",
    "validate",
]
