"""What came of a loop: all figures, held against each other; as JSON, and as a table."""

import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from distill.intervals import Paired
from distill.standings_table import interval, short
from distill.training.decision import compare
from distill.training.figures import Figures, told
from distill.training.iterations import Came
from distill.training.lineage import Version
from distill.training.markers import last_written_s
from distill.training.plan import FILE, Plan
from distill.training.trainer import Came as Training
from distill.training.trainer import trained_in
from distill.worker_settings import DEFAULT_MODEL

NOTES = (
    """Accuracy: the mean score of the tasks, a run that failed being wrong; its 95 % interval is
Wilson's.""",
    """Difference: task by task, with the 95 % interval of Bonett and Price; p is of the exact sign
test, of each pair by itself.""",
    """The held-out tasks decide which versions are kept, so the accuracy of a version that was kept
is a little too high, a little more with each iteration. Whole runs decide nothing.""",
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one worker with one supervisor. ``kind`` says what its tasks are for."""

    name: str
    kind: str
    figures: Figures
    version: int | None = None

    @property
    def label(self) -> str:
        """In a line."""
        return short(self.name)


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """``first`` less ``second``, at the same tasks: see ``distill.intervals.Paired``."""

    first: str
    second: str
    kind: str
    figures: Paired


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. ``trainings`` are by the name of what was trained, ``serve`` is the command that
    serves the last version kept (empty: the worker as it is), times are seconds since 1970.
    """

    command: str
    seed: int
    plan: Plan
    versions: list[Version]
    rows: list[Row]
    pairs: list[Pair]
    trainings: dict[str, Training]
    begun_at_s: float
    ended_at_s: float
    serve: str = ""
    notes: tuple[str, ...] = NOTES


def report_of(out: Path, plan: Plan, came: Came, command: str) -> Report:
    """The report of a loop that has ended."""
    rows, last = list(_rows(came)), came.last
    by_name = {row.name: row for row in rows}
    folders = {f"version {each.version}": f"iteration-{each.version}" for each in came.versions[1:]}
    folders |= {"oracle": "oracle"} if came.oracle is not None else {}
    trainings = {}
    for name, folder in folders.items():
        ended = trained_in(out / folder / "train")
        if ended is not None and ended.trained is not None:
            trainings[name] = ended.trained
    begun_at_s = last_written_s(out, FILE)
    return Report(
        command=command,
        seed=int(plan.training.get("--seed", 0)),
        plan=plan,
        versions=came.versions,
        rows=rows,
        pairs=[
            Pair(
                first=first,
                second=second,
                kind=by_name[first].kind,
                figures=compare(by_name[first].figures.scores, by_name[second].figures.scores),
            )
            for first, second in _pairs(came, _name(last))
        ],
        trainings=trainings,
        begun_at_s=begun_at_s,
        ended_at_s=max(begun_at_s, last_written_s(out, "*/*.figures.json")),
        notes=(*NOTES, f"There is no oracle: {came.no_oracle}") if came.no_oracle else NOTES,
        serve=_serve(out, plan, last),
    )


def _serve(out: Path, plan: Plan, last: Version) -> str:
    """The command that serves a version; empty for the worker as it is."""
    if last.adapter is None or not last.version:
        return ""
    adapter, here = out / last.adapter, Path.cwd()
    shown = adapter.relative_to(here) if adapter.is_relative_to(here) else adapter
    worker = [] if plan.worker == DEFAULT_MODEL else ["--worker", plan.worker]
    return shlex.join(["bin/distill-up", *worker, "--adapter", str(shown)])


def took(report: Report) -> str:
    """When it was, and for how long."""
    begun, ended = (
        f"{datetime.fromtimestamp(each, UTC):%Y-%m-%d %H:%M}"
        for each in (report.begun_at_s, report.ended_at_s)
    )
    minutes = round((report.ended_at_s - report.begun_at_s) / 60)
    hours, rest = divmod(minutes, 60)
    whole = f"{hours} h {rest:02} min" if hours else f"{rest} min"
    return f"From {begun} to {ended} UTC: {whole}, pauses included"


def _name(version: Version) -> str:
    return f"version {version.version}" if version.version else "base"


def _rows(came: Came) -> Iterator[Row]:
    held_out = "held-out"
    for version in came.versions:
        number = version.version
        if (figures := came.held_out.get(number)) is not None:
            yield Row(name=_name(version), kind=held_out, figures=figures, version=number)
    for name, figures in came.baselines.items():
        yield Row(name=f"baseline {name}", kind=held_out, figures=figures)
    if came.oracle is not None:
        yield Row(name="oracle", kind=held_out, figures=came.oracle)
    for name, figures in came.whole_runs.items():
        yield Row(name=f"whole runs, {name}", kind="whole runs", figures=figures)
    for number, figures in came.collected.items():
        yield Row(name=f"collected {number}", kind="training", figures=figures)


def _pairs(came: Came, last: str) -> Iterator[tuple[str, str]]:
    """What is held against what, each pair once: the last version kept, then each to its parent."""
    found = []
    if last != "base":
        found = [(last, "base"), *((last, f"baseline {name}") for name in came.baselines)]
    by_number = {each.version: _name(each) for each in came.versions}
    for version in came.versions:
        if version.parent is not None and version.version in came.held_out:
            found.append((_name(version), by_number[version.parent]))
    if came.oracle is not None:
        found += [("oracle", "base"), ("oracle", last)]
    if "trained" in came.whole_runs:
        found.append(("whole runs, trained", "whole runs, base"))
    yield from dict.fromkeys(found)


def as_json(report: Report) -> dict[str, Any]:
    """The report without the single scores, which are beside it."""
    made: dict[str, Any] = msgspec.to_builtins(report)
    for row, plain in zip(report.rows, made["rows"], strict=True):
        plain["figures"] = told(row.figures)
    return made


def table(report: Report) -> str:
    """The figures for a terminal."""
    head = ("", "Tasks", "Accuracy", "95 %", "")
    lines = [head, *(_line(row, report.versions) for row in report.rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    shown = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    pairs = [f"  {pair_in_words(pair)}" for pair in report.pairs]
    return "\n".join([*shown, *(["", "Task by task:"] if pairs else []), *pairs])


def _line(row: Row, versions: Sequence[Version]) -> tuple[str, ...]:
    figures = row.figures
    kept = {each.version: "kept" if each.kept else "dropped" for each in versions if each.version}
    return (
        row.label,
        f"{figures.tasks:,}",
        f"{figures.accuracy:.3f}",
        interval(*figures.interval),
        "" if row.version is None else kept.get(row.version, ""),
    )


def pair_in_words(pair: Pair) -> str:
    """The difference, and how sure it is."""
    figures = pair.figures
    low, high = figures.interval
    return (
        f"{short(pair.first)} less {short(pair.second)}: {figures.difference:+.3f} ({low:+.3f} to "
        f"{high:+.3f}), {figures.tasks:,} tasks, p = {figures.p:.2g}"
    )
