"""``export``: from log folders to a data set.

::

    folders ──► runs, graded ──► --where, --select ──► format ──► --dedup ──► --split ──► files
      │              ▲                                   ▲                                  │
      │          results files                     worker calls,                     manifest, card
      └──────────────────────────────────────────► one at a time
"""

import contextlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from distill.budget import counted
from distill.errors import InputError, NoRowsError
from distill.exports import card, manifest
from distill.exports.choice import Choice
from distill.exports.duplicates import Seen
from distill.exports.grading import check_scorer, decide, graded_runs, scorers_of
from distill.exports.made import Export
from distill.exports.material import Material
from distill.exports.reading import Source, hashed, read_runs, sources
from distill.exports.row import Dropped, Format, OriginRow, Row
from distill.exports.selection import Select, chosen_runs
from distill.exports.splits import clusters, other_seed, sides
from distill.exports.writing import DataFiles, FileType, at_once, check_free, new_file
from distill.redaction import MASK
from distill.supervisor.text import printable
from distill.traces.results import places_beside

RECIPE = re.compile(r"recipe:[\w-]{1,64}")


def export(
    runs: Sequence[str | Path] | str | Path,
    out: str | Path | None = None,
    *,
    format: str | Format,  # noqa: A002  (what --format is called in Python)
    where: str | Sequence[str] = (),
    select: Select = "all",
    scorer: str | None = None,
    correct_from: float = 1.0,
    dedup: bool = False,
    split: str | Mapping[str, float] | None = None,
    seed: int = 0,
    as_: FileType = "jsonl",
    rows: int | None = None,
    not_from: Sequence[str | Path] = (),
    length_weight: float | None = None,
    without_shots: bool = False,
    results: Sequence[str | Path] = (),
    dry_run: bool = False,
) -> Export:
    """Write runs down as a data set for training, in the folder ``out``.

    ``runs`` are log folders (all their runs) or ``FOLDER#ID``. ``format`` is the name of one
    (docs/export.md), or a Format of your own (``distill.exports.row``). All expressions of
    ``where`` must hold. ``select`` keeps all runs, or of each group (the same question about the
    same text) the ``best`` by score, the ``correct`` ones (of a score of at least ``correct_from``)
    or the ``shortest`` of these. Scores are those of the logs and of the results files beside them,
    or in ``results``; ``scorer`` names the one that decides, where there are several. ``dedup``
    drops rows that are there already, to the letter or all but. ``split`` shares the texts out, by
    ``seed``. ``as_`` is the kind of file. ``rows`` and ``not_from`` are of few-shot demonstrations:
    how many, and files of which none may come; ``length_weight`` is of episodes: the most that the
    length of an answer takes of its reward. ``without_shots`` leaves the turns before the
    last out of workers' prompts, so that the answers to few-shot prompts are taught to a zero-shot
    one. A ``dry_run`` counts, and writes nothing; ``out`` may be left out then.

    Raises InputError for what can't be used, for an ``out`` that is not empty, and where no row is
    left; nothing is written then.
    """
    choice = Choice(
        format=format,
        where=(where,) if isinstance(where, str) else tuple(where),
        select=select,
        scorer=scorer,
        correct_from=correct_from,
        dedup=dedup,
        split=split,
        seed=seed,
        as_=as_,
        rows=rows,
        not_from=tuple(map(str, not_from)),
        length_weight=length_weight,
        without_shots=without_shots,
    )
    choice.check()
    if out is not None:
        out = Path(out).expanduser()
        check_free(out)
    elif not dry_run:
        raise InputError("name a folder for the data set: --out DIR, or --dry-run for none")
    read = sources([runs] if isinstance(runs, str | Path) else runs)
    files = [_there(Path(each).expanduser()) for each in results]
    for source in read:
        read_runs(source)
    work = _Work(choice, read, files)
    return work.count() if dry_run else work.write(Path(out or ""))


def _there(file: Path) -> Path:
    if not file.is_file():
        raise InputError(f"there is no results file {file}")
    return file


class _Rows(Protocol):
    """Where rows go."""

    def write(self, split: str, row: Row) -> None: ...


class _Nowhere:
    """Where the rows of a dry run go."""

    def write(self, split: str, row: Row) -> None:
        """Forget it."""


class _Work:
    """One export: its runs are read."""

    def __init__(self, choice: Choice, read: Sequence[Source], results: Sequence[Path]) -> None:
        self._choice, self._read = choice, read
        self._format: Format = choice.wanted_format()
        beside = [path for source in read for path in places_beside(source.folder.resolve())]
        self._results = [hashed(path) for path in dict.fromkeys([*beside, *results])]
        graded, unfit = graded_runs(read, results)
        conditions = choice.conditions()
        self._scorers = scorers_of(graded)
        for name in {name for each in conditions for name in each.scorers}:
            check_scorer(name, self._scorers)
        decide(graded, choice.scorer, must=choice.must_decide())
        runs, dropped = chosen_runs(graded, conditions, choice.select, choice.correct_from)
        self._export = Export(
            self._format.name,
            runs=len(runs),
            runs_read=len(graded) + unfit.total(),
            dropped_runs=dropped + unfit,
        )
        self._material = Material(
            read,
            runs,
            conditions,
            seed=choice.seed,
            rows=choice.rows,
            not_from=choice.forbidden_texts(),
            shots=not choice.without_shots,
        )
        if choice.length_weight is not None:
            self._material.length_weight = choice.length_weight
        self._shares = choice.shares()
        is_one = len(self._shares) == 1
        self._clusters = {each.run.id: "" for each in runs} if is_one else clusters(runs)
        self._sides = sides(self._clusters, self._shares, choice.seed)

    def count(self) -> Export:
        """What would come of it."""
        self._into(_Nowhere())
        return self._export

    def write(self, out: Path) -> Export:
        """The data set, whole or not at all."""
        with at_once(out) as folder:
            files = DataFiles(folder, self._choice.as_, self._format.row)
            with contextlib.closing(files):
                self._into(files)
            made = manifest.made(self._choice, self._read, self._results, self._export, folder)
            told = card.text(out.name, self._format, self._material.runs, made)
            both = {manifest.FILE: manifest.as_json(made), card.FILE: printable(told).encode()}
            for name, data in both.items():
                with new_file(folder / name) as file:
                    file.write(data)
        self._export.out = out
        return self._export

    def _into(self, files: _Rows) -> None:
        export, seen = self._export, Seen() if self._choice.dedup else None
        export.rows = dict.fromkeys(self._shares, 0)
        for each in self._format.rows(self._material):
            if isinstance(each, Dropped):
                export.dropped_rows[each.reason] += 1
            elif seen is not None and (double := seen.check(each.texts)) is not None:
                export.dropped_rows[f"{double} duplicate"] += 1
            else:
                split = self._sides[each.of.run.id]
                files.write(split, each.row)
                export.rows[split] += 1
        export.dropped_rows.update(self._material.dropped)
        export.skipped_lines = sum(len(source.skipped) for source in self._read)
        if not sum(export.rows.values()):
            raise NoRowsError(f"no row is left, nothing is written. {told_drops(export)}")
        export.warnings = self._warnings()

    def _warnings(self) -> list[str]:
        rows = self._export.rows
        found = []
        if empty := [name for name, count in rows.items() if not count and any(rows.values())]:
            other = other_seed(self._clusters, self._shares, self._choice.seed)
            advice = "" if other is None else f"; try --seed {other}"
            found.append(f"the split {', '.join(empty)} has no row: there are few texts{advice}")
        found += [
            f"{path} grew while it was read: export again when its run has ended"
            for source in self._read
            for path in source.grown()
        ]
        if self._export.skipped_lines:
            lines = counted(self._export.skipped_lines, "line")
            found.append(f"{lines} of the logs can't be read (`distill doctor` names them)")
        found += self._of_runs()
        if self._is_undecided():
            found.append(
                f"the column `score` is empty: there are scores by {', '.join(self._scorers)}, and "
                "no --scorer says which it holds"
            )
        fewest = self._format.fewest_rows
        return found + [
            f"the split {name} has {counted(count, 'row')}, and {self._format.read_by} takes no "
            f"fewer than {fewest}"
            for name, count in rows.items()
            if 0 < count < fewest
        ]

    def _of_runs(self) -> list[str]:
        """What is unusual about the runs that were chosen."""
        runs, found = self._material.runs, []
        if redacted := sum(bool(each.redacted) for each in runs):
            found.append(
                f"{redacted:,} of {counted(len(runs), 'run')} redacted when logged: what was found "
                f"is {MASK} in the rows"
            )
        if len(self._shares) > 1 and len({each.redacted for each in runs}) > 1:
            found.append(
                "runs are redacted in different ways: a text of two of them is two texts here, "
                "and may be on both sides of the split"
            )
        written = Counter(
            each.start.supervisor for each in runs if RECIPE.fullmatch(each.start.supervisor)
        )
        if "turn" in self._format.asks and "call" not in self._format.asks:
            found += [
                f"{counted(count, 'run')} of {name}: the replies were written by hand, by no model "
                f"(--where \"run.supervisor != '{name}'\" leaves them out)"
                for name, count in written.items()
            ]
        return found

    def _is_undecided(self) -> bool:
        """Its rows have a column for the score, and nobody said by which scorer."""
        is_open = self._choice.scorer is None and len(self._scorers) > 1
        return is_open and issubclass(self._format.row, OriginRow)


def told_drops(export: Export) -> str:
    """The drops on one line, most frequent first."""
    runs = [
        f"{counted(count, 'run')}: {reason}" for reason, count in export.dropped_runs.most_common()
    ]
    rows = [f"{count:,} × {reason}" for reason, count in export.dropped_rows.most_common()]
    return (
        f"Dropped: {'; '.join([*runs, *rows])}" if runs or rows else "The runs hold nothing for it"
    )
