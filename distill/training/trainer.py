"""A training in a process of its own: ``distill train METHOD DATA -o OUT``, as by hand."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from distill.errors import DistillError, InputError, MachineError, NoRowsError
from distill.supervisor.text import visible
from distill.supervisor.worker_command import worker_environment
from distill.training.collapse import CollapseError
from distill.training.markers import found

LOG = ".log"
"""What the process said, beside its folder."""
LOOK_EVERY_S = 0.5
END_S = 10.0
"""A process that is told to end has so long for it."""
SAID_CHARS = 1500
BY_EXIT_CODE: dict[int, type[DistillError]] = {2: InputError, 3: MachineError}
ENDS_A_VERSION = {kind.exit_code: kind for kind in (CollapseError, NoRowsError)}

Hear = Callable[[str], None]
"""Gets the newest line that the process has said."""


class Trainer(Protocol):
    """Trains on a data set, from the adapter of ``parent`` on, if there is one."""

    def __call__(self, data: Path, out: Path, parent: Path | None, hear: Hear) -> None:
        """Have ``out`` hold the training's end; go on where it was stopped.

        Raises DistillError, of which those of ENDS_A_VERSION are this version's end, and not the
        loop's.
        """


class Came(msgspec.Struct, frozen=True):
    """What a training came to, as its ``training.json`` has it."""

    weights: str
    rows: int
    steps: int
    first_loss: float
    last_loss: float
    seconds: float
    parity: str = ""
    warnings: list[str] = []


class Told(msgspec.Struct, frozen=True):
    """Of ``training.json``; ``trained`` is None of one that has not ended."""

    asked: dict[str, Any]
    trained: Came | None = None


def trained_in(out: Path) -> Told | None:
    """What is told of the training in a folder, if one has ended there. Raises InputError."""
    told = found(out / "training.json", Told)
    return None if told is None or told.trained is None else told


@dataclass(frozen=True, slots=True)
class TrainerProcess:
    """``options`` are those of ``distill train METHOD``, by their flags; True: it has no value.
    ``make_room`` is called before its process starts.
    """

    method: str
    model: str
    options: Mapping[str, Any]
    make_room: Callable[[], object] = lambda: None

    def __call__(self, data: Path, out: Path, parent: Path | None, hear: Hear) -> None:
        """Train, and hear its progress."""
        log = out.with_name(out.name + LOG)
        self.make_room()
        with log.open("ab") as said:
            process = subprocess.Popen(
                self.command(data, out, parent),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=worker_environment(),
            )
        try:
            while _runs(process):
                hear(_last_line(log))
        finally:
            _end(process)
        if (ended := ENDS_A_VERSION.get(process.returncode)) is not None:
            raise ended(_tail(log).rpartition("distill: ")[2])
        if process.returncode == -signal.SIGKILL:
            raise MachineError(
                "the training was killed, as the kernel does where memory is short: free some, or "
                f"begin anew with fewer --batch-rows or a lower --max-tokens; {log} has all it said"
            )
        if process.returncode:
            kind = BY_EXIT_CODE.get(process.returncode, DistillError)
            raise kind(
                f"the training ended with {process.returncode}; {log} has all it said, last:\n"
                f"{_tail(log)}"
            )

    def command(self, data: Path, out: Path, parent: Path | None) -> list[str]:
        """As one would type it, but that it ends with its parent."""
        words = [sys.executable, "-m", "distill.training.child", str(os.getpid())]
        words += ["train", self.method, str(data)]
        words += ["--out", str(out), "--model", self.model]
        words += ["--adapter", str(parent)] if parent is not None else []
        for flag, value in self.options.items():
            words += [flag] if value is True else [flag, str(value)]
        return words


def _runs(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(LOOK_EVERY_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Asked first, so that it can close its files; what counts is its last whole checkpoint."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    if process.poll() is None:
        process.kill()
        process.wait()


def _tail(log: Path) -> str:
    return log.read_bytes()[-SAID_CHARS:].decode("utf-8", "replace").strip()


def _last_line(log: Path) -> str:
    return visible(_tail(log).rpartition("\n")[2].rpartition("\r")[2])
