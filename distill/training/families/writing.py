"""``distill train tasks``: the tasks of a family, as two files of tasks and a manifest.

::

    text ──► two stretches ──┐
                             ├─► a document, a question, the answer ──► train.jsonl, test.jsonl
    names ─► two halves ─────┘        (each by a seed of its own)          manifest.json
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from distill.errors import InputError
from distill.exports.writing import at_once, check_free, new_file
from distill.inputs import read_context
from distill.training.families import FAMILIES
from distill.training.families.family import Family, Side
from distill.training.families.filler import stretches
from distill.training.families.inventions import SIDES, Inventions
from distill.version import __version__

MANIFEST = "manifest.json"
BOOK = Path(__file__).resolve().parents[3] / "examples" / "kjv.txt"
"""The King James text, which a clone has."""
ENTRY_CHARS = 240
"""The least that an entry may have: its record, and some prose around it."""
ENTRIES_LIMIT = 200
CHARS_LIMIT = 10_000_000
TASKS_LIMIT = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How many tasks on each side, and how large a document is; None: as the family has it."""

    train: int = 400
    test: int = 100
    entries: int | None = None
    chars: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How often each task is asked, and at which temperature its workers answer (None: as whoever
    writes the code says).
    """

    attempts: int = 1
    temperature: float | None = None

    def check(self) -> None:
        """Raise InputError for what no task can have."""
        if self.attempts < 1:
            raise InputError(f"--attempts is at least 1, not {self.attempts}")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise InputError(f"--temperature is at least 0, not {self.temperature:g}")

    def fields(self) -> dict[str, Any]:
        """Of a task, where they are not as usual."""
        often = {} if self.attempts == 1 else {"attempts": self.attempts}
        if self.temperature is None:
            return often
        return often | {"options": {"worker_options": {"temperature": self.temperature}}}


@dataclass(frozen=True, slots=True)
class Generated:
    """The folder, and how many tasks are in it."""

    out: Path
    train: int
    test: int


def generate(
    family: str,
    out: str | Path,
    sizes: Sizes | None = None,
    *,
    asking: Asking | None = None,
    seed: int = 0,
    text: str | Path | None = None,
) -> Generated:
    """Write the tasks of a family into the new folder ``out``: ``train.jsonl``, ``test.jsonl``.

    A line is a task as ``--tasks`` takes it, with the exact answer as its label. The two sides
    share no stretch of ``text`` (a file or a folder; default: the King James text), no name and no
    goods, also those of different seeds. The same arguments give the same bytes, and more tasks
    begin with those of fewer.

    Raises InputError for an unknown family, sizes that can't be, a text that is too short, and an
    ``out`` that is not empty; nothing is written then.
    """
    wanted, sizes, asking = _family(family), sizes or Sizes(), asking or Asking()
    asking.check()
    entries, chars = _document(wanted, sizes)
    out = Path(out).expanduser()
    check_free(out)
    whole = _read(text)
    sides = _sides(whole)
    told = {
        "family": family,
        "version": wanted.version,
        "seed": seed,
        "sizes": asdict(Sizes(train=sizes.train, test=sizes.test, entries=entries, chars=chars)),
        "asking": asdict(asking),
        "text_sha256": hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest(),
        "distill": __version__,
    }
    with at_once(out) as folder:
        for side, count in zip(sides, (sizes.train, sizes.test), strict=True):
            with new_file(folder / f"{side.name}.jsonl") as file:
                for task in _tasks(wanted, side, count, entries, chars, seed):
                    file.write(msgspec.json.encode(task | asking.fields()) + b"\n")
        with new_file(folder / MANIFEST) as file:
            file.write(msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n")
    return Generated(out, sizes.train, sizes.test)


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise InputError(f"there is no family {name!r}; there are {', '.join(FAMILIES)}")
    return FAMILIES[name]()


def _document(family: Family, sizes: Sizes) -> tuple[int, int]:
    """Entries and characters of a document. Raises InputError."""
    entries = family.entries if sizes.entries is None else sizes.entries
    # Of other entries than usual: the same length of each.
    usual = family.chars * max(entries, 1) // family.entries
    chars = usual if sizes.chars is None else sizes.chars
    for flag, value, least, most in (
        ("train", sizes.train, 1, TASKS_LIMIT),
        ("test", sizes.test, 1, TASKS_LIMIT),
        ("entries", entries, family.fewest_entries, ENTRIES_LIMIT),
        ("chars", chars, entries * ENTRY_CHARS, CHARS_LIMIT),
    ):
        if not least <= value <= most:
            why = f" ({ENTRY_CHARS} an entry)" if flag == "chars" and value < least else ""
            raise InputError(
                f"--{flag} of {family.name} is {least:,}{why} to {most:,}, not {value:,}"
            )
    return entries, chars


def _read(text: str | Path | None) -> str:
    if text is None and not BOOK.is_file():
        raise InputError("name a text for the documents to be padded with: --text FILE")
    context, _ = read_context([str(Path(text or BOOK).expanduser())], "utf-8")
    return context if isinstance(context, str) else "\n".join(map(str, context.values()))


def _sides(text: str) -> list[Side]:
    return [
        Side(name, filler, Inventions(name, text))
        for name, filler in zip(SIDES, stretches(text), strict=True)
    ]


def _tasks(
    family: Family, side: Side, count: int, entries: int, chars: int, seed: int
) -> Iterator[dict[str, str]]:
    for number in range(1, count + 1):
        chance = Random(f"{family.name} {family.version} {seed} {side.name} {number}")
        posed = family.pose(side, entries, chars, chance)
        yield {
            "id": f"{family.name}-{side.name}-{seed}-{number:05}",
            "query": posed.query,
            "label": posed.label,
            "context": posed.context,
        }
