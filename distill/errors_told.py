"""How a command ends that fails: a message on stderr, and an exit code of ``distill.errors``."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from distill.errors import DistillError
from distill.supervisor.text import visible


class Exit(Exception):
    """Ends a command with this exit code; its message has been printed."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@contextmanager
def errors_told(show_traceback: bool) -> Iterator[None]:
    """Errors as one message on stderr and an exit code; the traceback only if asked for."""
    try:
        yield
    except DistillError as error:
        if show_traceback:
            traceback.print_exc()
        _say(f"distill: {error}", error)
        raise Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        _say("distill: stopped", error)
        raise Exit(130) from error
    except Exception as error:
        if show_traceback:
            traceback.print_exc()
        failed = f"distill failed: {type(error).__name__}: {error} (--traceback shows where)"
        _say(failed, error)
        raise Exit(DistillError.exit_code) from error


def _say(text: str, error: BaseException) -> None:
    """A message on stderr, with the notes of the error that it is of."""
    for each in (text, *getattr(error, "__notes__", ())):
        click.echo(visible(each), err=True)
