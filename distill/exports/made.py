"""What came of an export."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Export:
    """What came of it: counts, and what was dropped, by reason. ``out`` is None of a dry run.

    ``rows`` are those of each split, ``runs`` those that were chosen, of ``runs_read``;
    ``skipped_lines`` of the logs could not be read. ``warnings`` say what whoever trains on the
    files should know.
    """

    format: str
    out: Path | None = None
    rows: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    runs_read: int = 0
    dropped_runs: Counter[str] = field(default_factory=Counter)
    dropped_rows: Counter[str] = field(default_factory=Counter)
    skipped_lines: int = 0
    warnings: list[str] = field(default_factory=list)
