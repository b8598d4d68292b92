"""Progress on stderr: live lines on a terminal, plain lines elsewhere."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from distill.errors import DistillError
from distill.progress import Progress
from distill.protocol.client_link import EngineStatus, WorkerStatus
from distill.supervisor.text import visible
from distill.worker_lines import in_words, lines

PLAIN_EVERY_S = 10.0
WORKERS_EVERY_S = 60.0
"""How often a plain line tells of the workers while they work."""
REFRESH_S = 1.0
FRAMES_PER_S = 8
INDENT = "  "
OF_A_LOOP = ("iteration ", "base ", "baseline ", "oracle ", "whole runs")
COUNTED = ("turn ", "tasks ", "scored ", "step ", "replays ", *OF_A_LOOP)
"""What a phase begins with that tells its seconds by itself."""
TOLD = frozenset(("frozen", "failed", "draining", "left"))
"""States of a worker that a plain line tells of, beside its restarts and that it is ready again."""


class Display:
    """What is going on, for a person. A context manager; thread-safe; a broken stderr is ignored.

    On a terminal some lines are kept up to date: the phase or the run, and the workers.
    Elsewhere a line is printed when the phase changes, and at most every PLAIN_EVERY_S within
    one; of the workers when one is in trouble, and every WORKERS_EVERY_S while runs go on.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._spinner = Spinner("dots")
        self._look: Callable[[], EngineStatus] | None = None
        self._engine: EngineStatus | None = None
        self._troubled: set[str] = set()
        """Workers whose trouble was told."""
        self._before: dict[str, WorkerStatus] = {}
        self._phase = ""
        self._since_s = time.monotonic()
        self._printed, self._printed_s = "", 0.0
        self._workers_printed_s = time.monotonic()
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
        spent = f"${progress.dollars:,.4f} · " if progress.dollars else ""
        below = f"{progress.sub_runs} sub-runs · " if progress.sub_runs else ""
        text = (
            f"turn {progress.turn}/{progress.turns} · {below}worker calls "
            f"{progress.calls_done}/{progress.calls_total}{failed} · {progress.tokens:,} tokens · "
            f"{spent}{progress.elapsed_s:.0f} s"
        )
        with self._lock, contextlib.suppress(OSError, ValueError):
            turned = not self._phase.startswith(f"turn {progress.turn}/")
            finished = 0 < progress.calls_total == progress.calls_done
            self._phase = text
            note = visible(progress.note)
            if note and self._live is not None:
                text = f"{text}\n{INDENT}{note}"[: len(text) + self._console.width]
            self._show(text, new=turned or finished)

    def tasks(self, text: str) -> None:
        """How far many tasks are; it counts its own seconds, and begins with a word of COUNTED."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._phase = text
            self._show(text, new=False)

    def status(self, engine: EngineStatus, *, of: Callable[[], EngineStatus] | None = None) -> None:
        """How the engine and its workers are; ``of``: unless that one is watched no more."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            if of is not None and of is not self._look:
                return
            self._engine = engine
            if self._live is None:
                self._tell_changes(engine)

    def watch(self, look: Callable[[], EngineStatus] | None) -> None:
        """Ask this, every REFRESH_S, how the engine is; None: there is none any more."""
        with self._lock:
            self._look = look
            if look is None:
                self._engine = None

    def line(self, text: str) -> None:
        """A line that stays."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._console.print(text, markup=False, emoji=False, soft_wrap=True)

    # -- plain

    def _show(self, text: str, *, new: bool) -> None:
        if self._live is not None:
            self._spinner.update(text=Text(text))
        elif text and (new or time.monotonic() - self._printed_s > PLAIN_EVERY_S):
            self._printed_s = time.monotonic()
            if text != self._printed:
                self._write(text)
            self._printed = text

    def _tell_changes(self, engine: EngineStatus) -> None:
        for worker in engine.workers:
            name, why = worker.worker, worker.fault.partition("\n")[0]
            before = self._before.get(name, worker)
            self._before[name] = worker
            if worker.restarts > before.restarts:
                self._write(visible(f"{name}: is started again: {why}"))
                self._troubled.add(name)
            elif worker.state in TOLD and worker.state != before.state:
                self._write(visible(f"{name}: {worker.state}{': ' if why else ''}{why}"))
                self._troubled.add(name)
            if worker.state == "ready" and name in self._troubled:
                self._write(visible(f"{name}: ready"))
                self._troubled.discard(name)
        busy = engine.runs and any(worker.in_flight for worker in engine.workers)
        if busy and time.monotonic() - self._workers_printed_s > WORKERS_EVERY_S:
            self._workers_printed_s = time.monotonic()
            self._write(in_words(engine.workers))

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    # -- live

    def _picture(self) -> RenderableType:
        """Called by rich, from its thread: takes no lock of ours."""
        engine = self._engine
        if engine is None:
            return self._spinner
        head: list[RenderableType] = [self._spinner]
        if not self._phase:
            head = [Text(f"{engine.runs} runs, {engine.waiting} requests waiting")]
        width = self._console.width - len(INDENT)
        told = [Text(INDENT + text, style) for text, style in lines(engine, width)]
        return Group(*head, *told)

    def _tick(self) -> None:
        """Count the seconds of a phase that says nothing of its own, and look at the engine."""
        while not self._ended.wait(REFRESH_S):
            if (look := self._look) is not None:
                with contextlib.suppress(TimeoutError, RuntimeError, DistillError):  # it is ending
                    self.status(look(), of=look)
            with self._lock, contextlib.suppress(OSError, ValueError):
                if self._phase and not self._phase.startswith(COUNTED):
                    seconds = time.monotonic() - self._since_s
                    self._show(f"{self._phase} ({seconds:.0f} s)", new=False)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._picture,
                refresh_per_second=FRAMES_PER_S,
                transient=True,
            )
            self._live.start()
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
            if self._live is not None:
                self._live.stop()
                self._live = None
