"""`distill score`: what it prints, and its exit code."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import msgspec

from distill.budget import counted
from distill.display import Display
from distill.errors import BudgetError, InputError, ModelError
from distill.scoring import score
from distill.scoring_lanes import Scores, ScoringProgress
from distill.standings_picture import check_picture, drawn
from distill.standings_table import short, table
from distill.supervisor.text import visible
from distill.user_folders import write_private

UNTOLD_SHOWN = 3
IDLE_SHOWN = 3
WHY_CHARS = 300


def score_runs(
    runs: Sequence[str], *, scorer: str | None, picture: Path | None, as_json: bool, **options: Any
) -> int:
    """Score them, print the table, draw it; the exit code."""
    if picture is not None:
        check_picture(picture)
    with Display() as display:
        display.phase("reading the logs")
        told = score(runs, scorer, on_progress=lambda at: display.tasks(line(at)), **options)
        display.phase("")
    if not told.comparisons:
        raise InputError("these runs have no scores: name a --scorer")
    for text in said(told, scorer):
        click.echo(visible(text), err=True)
    if as_json:
        click.echo(as_object(told))
    else:
        parts = [
            f"{short(name)}\n\n{table(comparison)}" for name, comparison in told.comparisons.items()
        ]
        click.echo("\n\n".join(parts))
    if picture is not None:
        _draw(told, picture)
    return exit_code(told)


def line(progress: ScoringProgress) -> str:
    """How far it is, in a line."""
    parts = [f"scored {progress.done:,}/{progress.total:,}"]
    if progress.untold:
        parts.append(f"{progress.untold:,} could not be told")
    if progress.dollars:
        parts.append(f"${progress.dollars:,.4f}")
    return " · ".join([*parts, f"{progress.elapsed_s:.0f} s"])


def said(told: Scores, scorer: str | None) -> Iterator[str]:
    """What is to be known of this scoring, beside the table."""
    if scorer is not None:
        yield f"{counted(told.scored, 'run')} scored now"
    yield from _not_scored(told)
    usage = told.judge_usage
    if usage.input_tokens or usage.output_tokens:
        cost = "" if told.dollars is None else f", ${told.dollars:,.4f}"
        yield f"the judge: {usage.input_tokens:,} tokens in, {usage.output_tokens:,} out{cost}"
    if told.stopped is not None:
        yield f"stopped: {told.stopped}. The same command with more goes on from here"


def _not_scored(told: Scores) -> Iterator[str]:
    for why, count in told.left_out.items():
        yield f"{counted(count, 'run')} {_agreeing(why, count)}"
    if told.idle_labels:
        names = ", ".join(map(short, told.idle_labels[:IDLE_SHOWN]))
        more = len(told.idle_labels) - IDLE_SHOWN
        names += f" and {more:,} more" if more > 0 else ""
        yield f"{counted(len(told.idle_labels), 'label')} of none of these runs: {names}"
    if told.redacted:
        yield f"{counted(told.redacted, 'run')} redacted: what their logs say is not what was said"
    if told.unreadable_lines:
        lines = counted(told.unreadable_lines, "line")
        yield f"{lines} of the logs can't be read: `distill doctor FOLDER` names them"
    for folder, why in told.busy.items():
        yield f"not scored: the runs in {folder}: {why}"
    for run, why in list(told.untold.items())[:UNTOLD_SHOWN]:
        yield f"run {run} could not be scored: {' '.join(why.split())[:WHY_CHARS]}"
    if len(told.untold) > UNTOLD_SHOWN:
        yield f"… and {len(told.untold) - UNTOLD_SHOWN:,} more"


def _agreeing(why: str, count: int) -> str:
    """The verb for one run."""
    return why if count != 1 else why.replace("have", "has", 1).replace("were", "was", 1)


def as_object(told: Scores) -> str:
    """The figures, for programs: by scorer, and what could not be scored."""
    scorers = {name: asdict(comparison) for name, comparison in told.comparisons.items()}
    whole = {
        "scorers": scorers,
        "scored": told.scored,
        "untold": told.untold,
        "left_out": dict(told.left_out),
        "idle_labels": told.idle_labels,
        "unreadable_lines": told.unreadable_lines,
        "redacted": told.redacted,
        "busy": {str(folder): why for folder, why in told.busy.items()},
        "judge_usage": told.judge_usage,
        "dollars": told.dollars,
        "stopped": None if told.stopped is None else str(told.stopped),
    }
    return msgspec.json.encode(whole).decode()


def _draw(told: Scores, picture: Path) -> None:
    if len(told.comparisons) > 1:
        names = ", ".join(map(short, told.comparisons))
        raise InputError(f"a picture is of one scorer, and there are {names}: name one (--scorer)")
    ((scorer, comparison),) = told.comparisons.items()
    try:
        write_private(picture, drawn(comparison, scorer).encode())
    except OSError as error:
        raise InputError(f"the picture {picture} can't be written: {error.strerror}") from error


def exit_code(told: Scores) -> int:
    """0 if all that could be scored is."""
    if told.stopped is not None:
        return BudgetError.exit_code
    if told.untold:
        return ModelError.exit_code
    return InputError.exit_code if told.busy else 0
