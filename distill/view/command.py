"""``distill view``: serve the page until Ctrl-C, or write it into a file."""

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import click

from distill.errors import InputError
from distill.supervisor.text import visible
from distill.traces import records
from distill.user_folders import state_folder
from distill.view.answers import Answers
from distill.view.export import check_target, export
from distill.view.opening import opened
from distill.view.server import ViewServer


def view(folders: Sequence[Path], *, port: int | None, opens: bool, target: Path | None) -> int:
    """Show the runs of these folders (the newest if there are none). Raises InputError."""
    if target is not None:
        if port is not None or opens:
            raise InputError("--export serves nothing: leave out --port and --open, or --export")
        check_target(target)
    answers = Answers(folders or [newest()])
    if target is not None:
        size = export(answers, target)
        click.echo(f"{visible(str(target))}: {size / 1e6:,.1f} MB, for any browser", err=True)
        return 0
    try:
        server = ViewServer(answers, port or 0)
    except OSError as error:
        raise InputError(f"port {port} can't be used: {error.strerror or error}") from error
    with contextlib.closing(server), contextlib.suppress(KeyboardInterrupt):
        click.echo(
            "Open this in a browser; who has the whole address can read the runs. Ctrl-C ends it.\n"
            f"From another machine: ssh -L {server.port}:127.0.0.1:{server.port} HOST first.",
            err=True,
        )
        click.echo(server.url)
        with opened(server.url) if opens else contextlib.nullcontext():
            threading.Event().wait()
    return 0


def newest() -> Path:
    """The log folder that was written last, of those where runs go by themselves."""
    logs = state_folder().glob(f"*/{records.SUPERVISOR_LOG}")
    found = max(logs, key=os.path.getmtime, default=None)
    if found is None:
        raise InputError(f"no run is logged in {state_folder()}: name a log folder")
    return found.parent
