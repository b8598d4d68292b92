"""The logs of distill: their records, how to read them back, how to check them.

``supervisor.jsonl`` and ``worker.jsonl`` of one folder are the whole truth about its runs;
``docs/log-schema.md`` explains every field, ``distill/schema/`` holds the JSON Schemas.
"""

from distill.traces.reading import Run, Skipped, Trace, read
from distill.traces.validation import Problem, validate

__all__ = ["Problem", "Run", "Skipped", "Trace", "read", "validate"]
