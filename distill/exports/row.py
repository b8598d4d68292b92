"""What a format is, and what it makes: the contract between the frame and ``formats/``.

A format is a module of ``distill/exports/formats/`` with one class, listed in its ``FORMATS``::

    class WorkerSft(Format):
        name = "worker-sft"                # --format
        about = "…"                        # one line, for --help and the dataset card
        row = WorkerSftRow                 # a Row: the columns, their types, their meaning
        asks = OF_CALLS                    # what --where may ask of what becomes a row
        read_by = "TRL's SFTTrainer"       # for the card

        def rows(self, material): ...

``rows`` gets the ``Material``: the runs that were chosen and their calls, one by one, as often
as it asks. It yields, for each thing that could have been a row, a ``Made`` or a ``Dropped``. The
frame does the rest: duplicates, splits, files, counts, manifest, card. A format holds no more than
a bounded number of calls at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from distill.exports.graded import GradedRun
from distill.exports.levels import Level
from distill.exports.material import Material


class ChatMessage(msgspec.Struct, frozen=True):
    """A message as trainers read it."""

    role: str
    content: str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a data set: its fields are its columns, in this order, on every row.

    A column is text, a number, a truth value, a list or a Struct of these, or one of them or None.
    The docstring of its class ends with ``Attributes:`` and a line ``name: meaning`` for each.
    """


class OriginRow(Row, frozen=True, kw_only=True):
    """A row that says where it comes from.

    Attributes:
    run: the id of its run
    task: that run's label; of a run of `--tasks`, the task's id
    document: SHA-256 of the text that it asked about
    score: that run's, from 0 to 1; null: not scored, or by several scorers of which none decides
    """

    run: str
    task: str | None
    document: str
    score: float | None


@dataclass(frozen=True, slots=True)
class Made:
    """A row, the run that decides on which side of a split it goes, and what makes it this row.

    Rows with equal ``texts`` are duplicates of each other. A row of several runs names one: they
    must ask about the same text.
    """

    row: Row
    of: GradedRun
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something that is no row, and why, in a few words: equal reasons are counted together."""

    reason: str


class Format(ABC):
    """One way to write runs down for training. Raises InputError for options that don't fit it."""

    name: ClassVar[str]
    about: ClassVar[str]
    read_by: ClassVar[str]
    row: ClassVar[type[Row]]
    asks: ClassVar[tuple[Level, ...]]
    only_jsonl: ClassVar[bool] = False
    """Whoever reads it reads nothing else."""
    is_picked: ClassVar[bool] = False
    """It takes some of what there is: ``Material.rows`` of them, none from ``not_from``."""

    is_graded: ClassVar[bool] = False
    """Its rows hang on the score that decides."""
    is_rewarded: ClassVar[bool] = False
    """Its rows have a reward, of which ``Material.length_weight`` is a part."""
    may_lose_shots: ClassVar[bool] = False
    """Its prompts can be written without their earlier turns, where ``Material.shots`` is false."""
    fewest_rows: ClassVar[int] = 1
    """Whoever reads it takes no file with fewer."""

    @abstractmethod
    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        """All rows, and what became none."""


def origin(graded: GradedRun) -> dict[str, Any]:
    """The fields of an OriginRow."""
    return {
        "run": graded.run.id,
        "task": graded.task,
        "document": graded.document,
        "score": graded.score,
    }
