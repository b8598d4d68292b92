"""The command line as processes: started, watched, and searched for what it leaves behind."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import psutil

from distill import cli
from tests.distill.scripted import Endpoint
from tests.supervisor.processes import environment, kill, left, tree, wait_until

START_S = 30.0
TEXT = (
    "In the land there lived a giant. "
    * 30
    + "\n\nAnd there went out a champion out of the camp, named Goliath, of Gath, whose height was "
    "six cubits and a span. David slew the giant Goliath with a stone of his sling.\n\n"
    + "The rivers ran to the sea and the sea was not full. "
    * 200
)
QUESTION = "Which giant did David slay?"


@dataclass
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str


def surroundings(folder: Path, changes: Mapping[str, str | None]) -> dict[str, str]:
    """The environment of a command; a variable that is changed to None is not there."""
    own = {**environment(folder), "HOME": str(folder), **changes}
    return {name: value for name, value in own.items() if value is not None}


class Command:
    """``python -m distill …`` with all its files under ``folder``."""

    def __init__(
        self, folder: Path, *words: str, stdin: bytes | None = None, **env: str | None
    ) -> None:
        self.folder = folder
        self._out, self._err = folder / f"out-{id(self)}", folder / f"err-{id(self)}"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "distill", *words],
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=surroundings(folder, env),
                start_new_session=True,
            )
        if stdin is not None:
            assert self.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(stdin)
            self.process.stdin.close()
        self.family: dict[int, str] = {}

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return self._out.read_text("utf-8", "replace")

    @property
    def err(self) -> str:
        return self._err.read_text("utf-8", "replace")

    def look(self) -> dict[int, str]:
        """Remember and return the processes below."""
        found = tree(self.pid)
        self.family.update(found)
        return found

    def wait_for(self, text: str, timeout_s: float = START_S) -> None:
        """Wait until stderr holds a text; fails if the command ends first."""

        def is_there() -> bool:
            if text in self.err:
                return True
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.err}"
            return False

        wait_until(is_there, timeout_s, f"{text!r} in {self.err!r}")
        self.look()

    def done(self, timeout_s: float = 40.0) -> Done:
        """Wait for the end."""
        self.process.wait(timeout_s)
        return Done(self.process.returncode, self.out, self.err)

    def interrupt(self) -> None:
        """Ctrl-C: every process of the terminal's group gets it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGINT)

    def nothing_left(self, timeout_s: float = 10.0) -> None:
        """No process, socket or run directory may be left."""
        wait_until(lambda: not left(self.family), timeout_s, f"left: {self.family}")
        wait_until(lambda: not rests(self.folder), timeout_s, f"{rests(self.folder)}")

    def end(self) -> None:
        """Whatever happened, leave nothing for the next test."""
        self.look()
        kill(self.pid)
        self.process.wait(10)
        deadline = time.monotonic() + 0.2
        while left(self.family) and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in left(self.family):
            kill(pid)


def rests(folder: Path) -> list[str]:
    """What of ours lies in the temporary folder: run directories, spooled input, drafts."""
    ours = [*folder.glob("distill-*"), *folder.rglob("*.part"), *folder.rglob("*.sock")]
    return [str(path) for path in ours]


def command(folder: Path, *words: str, **options: str | bytes | None) -> Done:
    """A command from start to end, which must leave nothing."""
    stdin = options.pop("stdin", None)
    started = Command(folder, *words, stdin=stdin, **options)  # type: ignore[arg-type]
    try:
        deadline = time.monotonic() + 40
        while started.process.poll() is None and time.monotonic() < deadline:
            started.look()
            time.sleep(0.05)
        done = started.done(1)
        started.nothing_left()
    finally:
        started.end()
    return done


def command_here(folder: Path, *words: str, **env: str | None) -> Done:
    """A command that ends before it starts any process, run in this one.

    It does the same from its words to its exit code, without a second of imports.
    """
    out, err = io.StringIO(), io.StringIO()
    before, on_term = psutil.Process().children(), signal.getsignal(signal.SIGTERM)
    with (
        patch.dict(os.environ, surroundings(folder, env), clear=True),
        patch.object(sys, "argv", ["distill", *words]),
        patch.object(tempfile, "tempdir", None),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = cli.main()
        finally:
            signal.signal(signal.SIGTERM, on_term)
    # Below the launcher of another test's driver, a jail may be made for its next run.
    assert set(psutil.Process().children()) <= set(before), "it has started a process"
    assert rests(folder) == []
    return Done(code, out.getvalue(), err.getvalue())


@contextmanager
def engine(folder: Path, server: Endpoint, *words: str) -> Iterator[Command]:
    """A resident engine whose worker is this endpoint."""
    up = Command(folder, "up", "--worker-url", server.url, "--worker", "scripted", *words)
    try:
        up.wait_for("The engine is up")
        yield up
    finally:
        up.end()


def command_beside(short: Path, *words: str) -> Done:
    """A command while an engine is up in the same folder."""
    started = Command(short, *words)
    try:
        return started.done()
    finally:
        started.end()
