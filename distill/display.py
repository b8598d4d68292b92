"""Progress on stderr: a live line on a terminal, plain lines elsewhere."""

import contextlib
import sys
import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status

from distill.rollout import Progress

PLAIN_EVERY_S = 10.0
REFRESH_S = 1.0


class Display:
    """What is going on, for a person. A context manager; thread-safe; a broken stderr is ignored.

    On a terminal one line is kept up to date; elsewhere a line is printed when the phase
    changes, and at most every PLAIN_EVERY_S within one.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status: Status | None = None
        self._phase = ""
        self._since_s = time.monotonic()
        self._printed_s = 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def phase(self, text: str) -> None:
        """A new phase begins; its seconds are counted for the reader."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._phase, self._since_s = text, time.monotonic()
            self._show(text, new=True)

    def progress(self, progress: Progress) -> None:
        """A run moved."""
        failed = f" ({progress.calls_failed} failed)" if progress.calls_failed else ""
        text = (
            f"turn {progress.turn}/{progress.turns} · worker calls "
            f"{progress.calls_done}/{progress.calls_total}{failed} · {progress.tokens:,} tokens · "
            f"{progress.elapsed_s:.0f} s"
        )
        with self._lock, contextlib.suppress(OSError, ValueError):
            turned = not self._phase.startswith(f"turn {progress.turn}/")
            finished = 0 < progress.calls_total == progress.calls_done
            self._phase = text
            self._show(text, new=turned or finished)

    def line(self, text: str) -> None:
        """A line that stays."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._console.print(text, markup=False, soft_wrap=True)

    def _show(self, text: str, *, new: bool) -> None:
        if self._status is not None:
            self._status.update(text)
        elif new or time.monotonic() - self._printed_s > PLAIN_EVERY_S:
            self._printed_s = time.monotonic()
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def _tick(self) -> None:
        """Count the seconds of a phase that says nothing of its own."""
        while not self._ended.wait(REFRESH_S):
            with self._lock, contextlib.suppress(OSError, ValueError):
                if self._phase and not self._phase.startswith("turn "):
                    seconds = time.monotonic() - self._since_s
                    self._show(f"{self._phase} ({seconds:.0f} s)", new=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
        threading.Thread(target=self._tick, name="distill-display", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        with self._lock:
            if self._status is not None:
                self._status.stop()
                self._status = None
