"""What an export is asked for, and whether it can be had."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distill.errors import InputError
from distill.exports.columns import pyarrow
from distill.exports.formats import FORMATS, format_of
from distill.exports.row import Format
from distill.exports.selection import SELECTS, Select
from distill.exports.splits import shares
from distill.exports.where import Condition, condition
from distill.exports.writing import FILE_TYPES, FileType
from distill.inputs import read_context
from distill.traces.contexts import texts_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The options of ``export``, as they were given."""

    format: str | Format
    where: tuple[str, ...] = ()
    select: Select = "all"
    scorer: str | None = None
    correct_from: float = 1.0
    dedup: bool = False
    split: str | Mapping[str, float] | None = None
    seed: int = 0
    as_: FileType = "jsonl"
    rows: int | None = None
    not_from: tuple[str, ...] = ()
    length_weight: float | None = None
    without_shots: bool = False

    def check(self) -> None:
        """Raise InputError for what can't be had, in the order of the command line."""
        wanted = self.wanted_format()
        self.conditions()
        for flag, value, known in (
            ("select", self.select, SELECTS),
            ("as", self.as_, FILE_TYPES),
        ):
            if value not in known:
                raise InputError(f"--{flag} is one of {', '.join(known)}, not {value!r}")
        if not 0 <= self.correct_from <= 1:
            raise InputError(f"--correct-from is a score from 0 to 1, not {self.correct_from:g}")
        self.shares()
        if self.as_ == "parquet":
            if wanted.only_jsonl:
                raise InputError(f"{wanted.name} is read as JSON lines: leave out --as parquet")
            pyarrow()
        self._check_options_of(wanted)

    def _check_options_of(self, wanted: Format) -> None:
        """Those that only some formats have."""
        if not wanted.is_picked and (self.rows is not None or self.not_from):
            raise InputError(f"--rows and --not-from are for few-shot, not for {wanted.name}")
        if self.length_weight is not None and not wanted.is_rewarded:
            raise InputError(f"--length-weight is for episodes, not for {wanted.name}")
        if self.length_weight is not None and not 0 <= self.length_weight < 1:
            raise InputError(
                f"--length-weight is 0 or more and below 1, not {self.length_weight:g}: right and "
                "long must earn more than wrong and short"
            )
        if self.without_shots and not wanted.may_lose_shots:
            able = ", ".join(name for name, each in FORMATS.items() if each.may_lose_shots)
            raise InputError(
                f"--without-shots is for {able}, not for {wanted.name}: its rows "
                "have no prompt of a worker, or one of token ids, which is what was read"
            )
        if self.rows is not None and self.rows < 1:
            raise InputError(f"--rows is 1 or more, not {self.rows}")

    def wanted_format(self) -> Format:
        """The format. Raises InputError."""
        return self.format if isinstance(self.format, Format) else format_of(self.format)

    def conditions(self) -> list[Condition]:
        """The expressions, each understood. Raises InputError for one that the format can't ask."""
        wanted = self.wanted_format()
        found = [condition(text) for text in self.where]
        for each in found:
            if each.level not in wanted.asks:
                names = ", ".join(f"{level}.…" for level in wanted.asks)
                raise InputError(
                    f"--where {each.text!r} asks about each {each.level}; what becomes a row of "
                    f"{wanted.name} can be asked about {names} only"
                )
        return found

    def must_decide(self) -> bool:
        """Whether it has to be known which scorer decides."""
        asked = any(each.asks_score for each in self.conditions())
        return self.select != "all" or asked or self.wanted_format().is_graded

    def shares(self) -> dict[str, float]:
        """The splits with their shares. Raises InputError."""
        return shares(self.split)

    def forbidden_texts(self) -> list[str]:
        """The texts of ``not_from``, files or folders. Raises InputError."""
        if not self.not_from:
            return []
        context, _ = read_context([str(Path(path).expanduser()) for path in self.not_from], "utf-8")
        return [text for _, text in texts_of(context)]
