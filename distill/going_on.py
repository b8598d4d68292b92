"""What a command that was stopped says last: where the trace is, and how its run goes on."""

import contextlib
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import click
from click.core import ParameterSource

from distill.errors import InputError
from distill.first_checks import DECIDED
from distill.own_engine import distill_command
from distill.resumable import check_resumable
from distill.supervisors import REPLAY, recorded_run
from distill.traces import Run, read

NOT_AGAIN = DECIDED | frozenset(
    ("paths", "query", "log_dir", "resume", "label", "replay_answers", "show_traceback")
)
"""Options that ``--resume`` has from the log, or is in place of."""


@contextlib.contextmanager
def says_how_to_go_on(folder: str | Path, query: str | None, *, resumed: bool) -> Iterator[None]:
    """Note with what ends a run early where its trace is, and how to go on.

    ``folder`` is the log's, or what ``--resume`` names if ``resumed``.
    """
    began_s = time.time()
    try:
        yield
    except InputError:
        raise  # nothing was begun
    except BaseException as error:
        with contextlib.suppress(Exception):  # it must not hide why the run ended
            run = recorded_run(folder) if resumed else _begun(Path(folder), query, began_s)
            if run is not None:
                error.add_note(_told(run))
        raise


def _begun(folder: Path, query: str | None, since_s: float) -> Run | None:
    """The run that this command has begun in the folder; others may be logged there as well."""
    for run in reversed(read(folder).runs.values()):
        start = run.start
        if start is None or start.parent is not None or start.t < since_s:
            continue
        if query in (None, start.query):
            return run
    return None


def _told(run: Run) -> str:
    stopped = f"stopped at turn {max(1, len(run.turns))}; the trace is in {run.folder}"
    name = str(run.folder)
    if recorded_run(run.folder).id != run.id:
        name = f"{name}#{run.id}"
    try:
        check_resumable(name)
    except InputError:
        return stopped
    return f"{stopped}. To go on:\n  {distill_command()} {shlex.join([*_again(), name])}"


def _again() -> list[str]:
    """The command with what was typed of its models and workers, up to the run's name."""
    context = click.get_current_context()
    words = [context.command.name or "up"]
    for option in context.command.params:
        name = option.name or ""
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        given = context.params.get(name)
        if name in NOT_AGAIN or str(given).startswith(REPLAY):
            continue
        for value in given if isinstance(given, tuple | list) else [given]:
            words += [option.opts[0]] if value in (True, "") else [option.opts[0], str(value)]
    return [*words, "--resume"]
