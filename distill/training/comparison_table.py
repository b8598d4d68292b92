"""A comparison of versions for people, and for programs."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import msgspec

from distill.budget import counted
from distill.standings_table import INTERVAL, PAIRS, aligned, pair_line, share, short
from distill.training.comparison import Compared, VersionFigures

HEAD = (
    "Version",
    "Answered by",
    "Replays",
    "Failed",
    "Scored",
    "Accuracy",
    "95 %",
    "Other way",
    "Calls",
    "Failed calls",
    "Tokens in",
    "Tokens out",
    "Seconds",
)
WORDS = 2
"""Columns of words."""
SHOWN = 5
WHY_CHARS = 300
SUMS = """\
Calls, tokens and seconds are of all replays together. Other way: replays that asked something else
than the recorded run had, or whose cells ended otherwise."""


def table(compared: Compared) -> str:
    """The versions as lines, in their order, with what is to be known to read them."""
    lines = [compared.scorer, ""]
    lines += aligned([HEAD, *(_row(each) for each in compared.versions)], WORDS)
    lines += ["", INTERVAL, SUMS]
    if compared.pairs:
        lines += ["", PAIRS, *(pair_line(pair) for pair in compared.pairs)]
    return "\n".join(lines)


def _row(figures: VersionFigures) -> tuple[str, ...]:
    standing = figures.standing
    used = standing.worker_usage
    return (
        figures.name,
        short(" & ".join(figures.weights)) or "–",
        f"{standing.ended:,}",
        f"{len(figures.unfinished):,}",
        f"{standing.scored:,}",
        *share(standing.accuracy, standing.interval),
        f"{len(figures.other_way):,}",
        f"{standing.worker_calls:,}",
        f"{figures.worker_failures:,}",
        f"{used.input_tokens:,}",
        f"{used.output_tokens:,}",
        f"{standing.run_s:.1f}",
    )


def said(compared: Compared) -> Iterator[str]:
    """What is to be known beside the table: what is not in it, and why."""
    yield from _listed(compared.left_out, "left out: ")
    for figures in compared.versions:
        yield from _listed(figures.unfinished, f"{figures.name}: not done: run ")
        if len(figures.weights) > 1:
            yield (
                f"{figures.name}: {counted(len(figures.weights), 'model')} answered under this "
                "name, or at calls that differ: its figures are of no one version"
            )


def _listed(why: dict[str, str], before: str) -> Iterator[str]:
    for name, reason in list(why.items())[:SHOWN]:
        yield f"{before}{name}: {' '.join(reason.split())[:WHY_CHARS]}"
    if len(why) > SHOWN:
        yield f"… and {len(why) - SHOWN:,} more"


def as_object(compared: Compared) -> str:
    """The figures, for programs."""
    whole: dict[str, Any] = {
        "scorer": compared.scorer,
        "runs": compared.runs,
        "left_out": compared.left_out,
        "versions": [_figures(each) for each in compared.versions],
        "pairs": [asdict(pair) for pair in compared.pairs],
    }
    return msgspec.json.encode(whole).decode()


def _figures(figures: VersionFigures) -> dict[str, Any]:
    return {
        "name": figures.name,
        "folder": str(figures.folder),
        "weights": figures.weights,
        "standing": asdict(figures.standing),
        "worker_failures": figures.worker_failures,
        "other_way": figures.other_way,
        "unfinished": figures.unfinished,
    }
