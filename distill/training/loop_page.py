"""A loop's report as one page that loads nothing and runs nothing: no script, no network."""

import base64
import hashlib
from collections.abc import Collection, Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from distill.budget import counted
from distill.supervisor.text import printable, visible
from distill.training.curve import Line, Point, curve
from distill.training.lineage import Version
from distill.training.loop_report import Pair, Report, Row, as_json, took
from distill.training.markers import write_whole, written
from distill.worker_server.smollm2 import NAME
from distill.worker_settings import DEFAULT_MODEL

PAGE, DATA = "report.html", "report.json"
CHARS = 400
"""Of a cell's text; names and messages come from whoever wrote the tasks."""
FIGURES = (
    *("", "Tasks", "Accuracy", "95 %", "Runs", "Failed", "Worker calls", "Tokens in", "Tokens out"),
    *("Supervisor tokens", "Seconds of runs, added up", "Seconds by the clock"),
)
PAIRS = ("First", "Second", "Difference", "95 %", "Better", "Worse", "Equal", "p", "Tasks")
VERSIONS = (
    *("Version", "Parent", "Rows", "Steps", "Loss, first", "Loss, last", "Seconds", "", "Why"),
    *("Adapter, SHA-256", "Data manifest, SHA-256"),
)
WHY = VERSIONS.index("Why")


def write(out: Path, report: Report) -> Path:
    """Write it as a page and as JSON; where the page is. Raises OSError."""
    written(out / DATA, as_json(report))
    write_whole(out / PAGE, page(report).encode())
    return out / PAGE


def page(report: Report) -> str:
    """The document."""
    style = resources.files("distill.training").joinpath("loop_page.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return "\n".join(
        (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{_words(report.plan.method)}: a loop of distill</title>",
            f"<style>{style}</style></head><body><main>",
            *_sections(report),
            "</main></body></html>\n",
        )
    )


def _sections(report: Report) -> Iterable[str]:
    plan = report.plan
    yield f"<h1>{_words(plan.method)}, {counted(plan.iterations, 'iteration')}</h1>"
    worker = NAME if plan.worker == DEFAULT_MODEL else plan.worker
    yield (
        f"<p>Worker {_words(worker)}. Collected with {_words(plan.collect_with)}, evaluated "
        f"with {_words(plan.supervisor)}, scored by {_words(plan.scorer)}; seed {report.seed}.</p>"
    )
    yield f"<pre><code>{_words(report.command, 4000)}</code></pre>"
    yield f"<p>{_words(took(report))}</p>"
    if report.serve:
        yield f"<p>What it ended with answers by <code>{_words(report.serve)}</code></p>"
    yield "<h2>Held-out accuracy</h2>"
    yield f"<figure>{_curve(report)}</figure>"
    yield _table(FIGURES, [_figures(row) for row in report.rows], {0})
    yield "<h2>Task by task</h2>"
    yield _table(PAIRS, [_pair(pair) for pair in report.pairs], {0, 1})
    yield "<h2>Versions</h2>"
    yield (
        "<p>A version is dropped if its held-out accuracy is lower than its parent's by more than "
        f"{plan.margin:g}, or if the paired 95 % interval lies wholly below 0.</p>"
    )
    yield _table(VERSIONS, [_version(each, report) for each in report.versions], {WHY})
    yield from (f'<p class="note">{_words(note)}</p>' for note in _notes(report))


def _notes(report: Report) -> Iterable[str]:
    yield from report.notes
    if (oracle := report.trainings.get("oracle")) is not None:
        yield (
            f"The oracle was taught {oracle.rows:,} rows in {oracle.steps:,} steps: all that was "
            "asked in iteration 1 by runs of one question, rightly answered or not, with the label."
        )
    for name, training in report.trainings.items():
        if training.parity:
            yield f"The parity gate before {name}: {training.parity}"
        yield from (f"{name}: {warning}" for warning in training.warnings)


def _curve(report: Report) -> str:
    kept = {each.version: each.kept for each in report.versions}
    points, lines, oracle = [], [], None
    for row in report.rows:
        figures = row.figures
        if row.version is not None:
            name = str(row.version) if row.version else "base"
            points.append(Point(name, figures.accuracy, figures.interval, kept[row.version]))
        elif row.name == "oracle":
            oracle = Point("oracle", figures.accuracy, figures.interval)
        elif row.kind == "held-out":
            name = visible(row.name).removeprefix("baseline ")
            lines.append(Line(f"{100 * figures.accuracy:.1f}  {name}", figures.accuracy))
    return curve(points, lines, oracle)


def _figures(row: Row) -> Sequence[str]:
    figures = row.figures
    low, high = figures.interval
    numbers = (
        figures.runs,
        figures.failed,
        figures.worker_calls,
        figures.worker_input_tokens,
        figures.worker_output_tokens,
        figures.supervisor_tokens,
    )
    return (
        row.name if row.name.endswith(figures.supervisor) else f"{row.name} ({figures.supervisor})",
        f"{figures.tasks:,}",
        f"{figures.accuracy:.3f}",
        f"{low:.3f}–{high:.3f}",
        *(f"{number:,}" for number in numbers),
        f"{figures.run_s:,.1f}",
        f"{figures.wall_s:,.1f}",
    )


def _pair(pair: Pair) -> Sequence[str]:
    figures = pair.figures
    low, high = figures.interval
    counts = (figures.better, figures.worse, figures.equal)
    return (
        pair.first,
        pair.second,
        f"{figures.difference:+.3f}",
        f"{low:+.3f} to {high:+.3f}",
        *(f"{count:,}" for count in counts),
        f"{figures.p:.2g}",
        f"{figures.tasks:,}",
    )


def _version(version: Version, report: Report) -> Sequence[str]:
    training = report.trainings.get(f"version {version.version}")
    told: tuple[str, ...] = ("–",) * 3
    if training is not None:
        losses = (training.first_loss, training.last_loss)
        told = (*(f"{loss:.3f}" for loss in losses), f"{training.seconds:,.1f}")
    return (
        str(version.version),
        "–" if version.parent is None else str(version.parent),
        f"{version.rows:,}",
        f"{version.steps:,}",
        *told,
        "kept" if version.kept else "dropped",
        version.why,
        version.adapter_sha256[:12],
        version.data_manifest_sha256[:12],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[int]) -> str:
    """The columns of ``words`` may be broken into lines, the others hold figures."""
    head_cells = "".join(f"<th>{_words(cell)}</th>" for cell in head)
    lines = [head_cells, *(_row(row, words) for row in rows)]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>{body}</table></div>'


def _row(row: Sequence[str], words: Collection[int]) -> str:
    kinds = ["" if place in words else " class=n" for place in range(len(row))]
    cells = (f"<td{kind}>{_words(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
    return "".join(cells)


def _words(text: str, limit: int = CHARS) -> str:
    """A text that may say anything, as text."""
    text = visible(printable(text))
    return escape(text if len(text) <= limit else f"{text[: limit - 1]}…")
