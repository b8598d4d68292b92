"""``README.md``: what the data set is, how it was made, what its columns mean.

With the head that the Hugging Face hub and ``datasets`` read: which file is which split.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from distill.budget import counted
from distill.exports.columns import meanings, type_names
from distill.exports.graded import GradedRun
from distill.exports.row import Format
from distill.supervisor.text import visible

FILE = "README.md"
NAMED = 20
"""Sources and models that are named, at most."""
CORRECT = (
    "What was correct is the final answer of each run. An answer of a worker on the way to it may "
    "be wrong: `--where call.in_answer` keeps those that came into the final answer."
)
WITHOUT_SHOTS = (
    "The prompts have lost the turns before their last one (`--without-shots`): the answers were "
    "given to prompts that showed demonstrations there."
)
LICENCE = """\
The rows quote the texts that were asked about: whoever holds rights in those holds them here, and
what they allow must be looked up before this data set is passed on. The answers were written by
the models named above, whose terms may say what may be trained on them. distill grants nothing in
either.
"""


def text(name: str, format_: Format, runs: Sequence[GradedRun], made: dict[str, Any]) -> str:
    """The card. ``made`` is the manifest."""
    parts = [
        _head(made),
        f"# {_plain(name)}",
        _about(format_, made),
        "## Files\n\n" + _table(
            ("Split", "File", "Rows"),
            ((each["split"], f"`{each['file']}`", f"{each['rows']:,}") for each in made["files"]),
        ),
        "## How it was made\n\n" + _making(format_, made),
        "## Where it comes from\n\n" + _origins(runs),
        "## Columns\n\n" + _columns(format_),
        "## Dropped\n\n" + _dropped(made),
        *(["## To know\n\n" + "\n".join(f"- {each}" for each in made["warnings"])]
          if made["warnings"] else []),
        "## Licence\n\n" + LICENCE.strip(),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _about(format_: Format, made: dict[str, Any]) -> str:
    rows = counted(made["rows"]["written"], "row")
    return f"{rows} of the format `{format_.name}`: {format_.about}. Read by {format_.read_by}."


def _head(made: dict[str, Any]) -> str:
    """YAML, of names that are plain: those of splits and files."""
    files = "\n".join(
        f"  - split: {each['split']}\n    path: {each['file']}" for each in made["files"]
    )
    return f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}\ntags:\n- distill\n---"


def _making(format_: Format, made: dict[str, Any]) -> str:
    asked = ", ".join(
        f"{name} {_code(' and '.join(value) if isinstance(value, tuple) else value)}"
        for name, value in made["options"].items()
        if value not in (None, (), False)
    )
    inputs = len(made["inputs"])
    return (
        f"By `distill export` {made['versions']['distill']} from "
        f"{counted(made['runs']['read'], 'run')} in {counted(inputs, 'log folder')}, "
        f"{made['runs']['chosen']:,} of them chosen: {asked}. `manifest.json` has the hashes of "
        f"the inputs and of the files.{_meaning_of_correct(format_, made)}"
        + (f"\n\n{WITHOUT_SHOTS}" if made["options"]["without_shots"] else "")
    )


def _meaning_of_correct(format_: Format, made: dict[str, Any]) -> str:
    """Of rows that are worker calls, which no score tells of."""
    if "call" not in format_.asks or made["options"]["select"] not in ("correct", "shortest"):
        return ""
    return f"\n\n{CORRECT}"


def _origins(runs: Sequence[GradedRun]) -> str:
    documents = {each.document for each in runs}
    sources = Counter(source for each in runs for source in each.start.context.sources)
    lines = [f"- {counted(len(documents), 'text')}" + (f": {_named(sources)}" if sources else "")]
    lines += [
        f"- {role} models: {_named(Counter(getattr(each.start, role) for each in runs))}"
        for role in ("supervisor", "worker")
    ]
    if redacted := sum(bool(each.redacted) for each in runs):
        lines.append(f"- {redacted:,} of {counted(len(runs), 'run')} redacted when logged")
    return "\n".join(lines)


def _named(counts: Counter[str]) -> str:
    shown = [
        f"{_code(name)} ({counted(count, 'run')})" for name, count in counts.most_common(NAMED)
    ]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _columns(format_: Format) -> str:
    told = meanings(format_.row)
    rows = (
        (f"`{name}`", kind, told.get(name, "")) for name, kind in type_names(format_.row).items()
    )
    return _table(("Column", "Type", "Meaning"), rows)


def _dropped(made: dict[str, Any]) -> str:
    counts = [
        (what, _plain(reason), f"{count:,}")
        for what in ("runs", "rows")
        for reason, count in made[what]["dropped"].items()
    ]
    return _table(("What", "Why", "How many"), counts) if counts else "Nothing."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(each.replace('|', chr(92) + '|') for each in line)} |" for line in lines
    )


def _code(value: Any) -> str:
    """As code; names come from logs, and may hold anything."""
    return "`" + _plain(str(value)).replace("`", "'") + "`"


def _plain(value: str) -> str:
    return " ".join(visible(value).split())[:200]
