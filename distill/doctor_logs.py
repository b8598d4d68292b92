"""``distill doctor RUN…``: are these logs whole, and where do their answers come from?"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from distill import provenance_summary
from distill.budget import counted
from distill.checks import MARKS
from distill.supervisor.text import visible
from distill.traces import read, validate
from distill.traces.naming import check_runs, named_folders
from distill.traces.reading import Run
from distill.traces.validation import Problem

PROBLEMS_SHOWN = 20
"""Of a folder."""


def check_logs(named: Sequence[Path], *, as_json: bool, provenance: bool) -> int:
    """Validate log folders, or only some of their runs; 0 if they are whole, else 2.

    Raises InputError for what is no log folder, or no run of one.
    """
    found = [
        _Looked(folder, only, provenance=provenance)
        for folder, only in named_folders(named).items()
    ]
    fine = not any(each.problems for each in found)
    if as_json:
        told = {
            "fine": fine,
            "runs": [run for each in found for run in each.told()],
            "problems": [
                {"folder": str(each.folder), "where": str(problem.where), "what": problem.what}
                for each in found
                for problem in each.problems
            ],
        }
        click.echo(json.dumps(told, indent=2))
    else:
        for each in found:
            if len(found) > 1:
                click.echo(visible(str(each.folder)))
            click.echo("\n".join(each.lines()))
    return 0 if fine else 2


class _Looked:
    """What was found in a folder: of all its runs, or of these with their sub-runs.

    A line that can't be read may be of any run, so it is a problem of each.
    """

    def __init__(self, folder: Path, only: set[str] | None, *, provenance: bool) -> None:
        self.folder = folder
        self._trace, problems = validate(folder)
        runs = self._trace.runs
        check_runs(folder, only or (), runs)
        self._runs = list(runs.values())
        if only is not None:
            wanted = {run.id for run in _with_sub_runs(runs[id_] for id_ in only)}
            self._runs = [run for run in self._runs if run.id in wanted]
            problems = [problem for problem in problems if _is_of(problem, wanted)]
        self.problems: list[Problem] = problems
        self._with_calls = read(folder).runs if provenance else None

    def told(self) -> Iterator[dict[str, Any]]:
        """The runs, for programs."""
        for run in self._runs:
            more = {}
            if self._with_calls is not None:
                more["provenance"] = provenance_summary.told(self._with_calls[run.id])
            yield {"folder": str(self.folder), **self._of(run), **more}

    def _of(self, run: Run) -> dict[str, Any]:
        return {
            "run": run.id,
            "status": run.end.status if run.end else "cut off",
            "turns": len(run.turns),
            "cells": len(run.cells),
            "worker_calls": self._trace.call_counts[run.id],
            "messages": len(run.messages),
        }

    def lines(self) -> Iterator[str]:
        """The same for people, with what is wrong."""
        for run in self._runs:
            told = self._of(run)
            counts = ", ".join(
                counted(told[name], one)
                for name, one in (
                    ("turns", "turn"),
                    ("cells", "cell"),
                    ("worker_calls", "worker call"),
                    ("messages", "message"),
                )
            )
            yield f"run {run.id}: {told['status']}, {counts}"
            if self._with_calls is not None:
                yield from provenance_summary.lines(self._with_calls[run.id])
        for problem in self.problems[:PROBLEMS_SHOWN]:
            yield f"{MARKS[False]}  {problem.where}: {problem.what}"
        if len(self.problems) > PROBLEMS_SHOWN:
            yield f"     and {len(self.problems) - PROBLEMS_SHOWN} more"
        if not self.problems:
            yield f"{MARKS[True]}  every line is valid and every join holds"


def _is_of(problem: Problem, wanted: set[str]) -> bool:
    kind, _, id_ = problem.where.partition(" ")
    return kind != "run" or id_ in wanted


def _with_sub_runs(runs: Iterable[Run]) -> Iterator[Run]:
    for run in runs:
        yield run
        yield from _with_sub_runs(run.sub_runs)
