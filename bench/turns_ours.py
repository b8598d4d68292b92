"""distill as a user calls it: ``arun``, so many at once, with its jails and its logs."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from turns_contestant import Block, Running, Took
from turns_script import QUESTION, WORKER, text

from distill import REPL, OpenAIHandler, RunResult, arun, traces

NS = 1e9


class SdkClock:
    """Processor seconds that threads spend within the SDK: its requests, and reading replies."""

    def __init__(self) -> None:
        from openai._legacy_response import LegacyAPIResponse
        from openai.resources.chat.completions import Completions

        self.cpu_s = 0.0
        self._lock = threading.Lock()
        self._inside = threading.local()
        Completions.create = self._clocked(Completions.create)  # type: ignore[method-assign]
        LegacyAPIResponse.parse = self._clocked(  # type: ignore[method-assign]
            LegacyAPIResponse.parse
        )

    def _clocked(self, function: Callable[..., Any]) -> Any:
        def clocked(*args: Any, **kwargs: Any) -> Any:
            if getattr(self._inside, "it", False):
                return function(*args, **kwargs)
            self._inside.it = True
            before_s = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside.it = False
                with self._lock:
                    self.cpu_s += time.thread_time() - before_s

        return clocked


class Waited:
    """Seconds that runs have waited for something."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()

    def during(self, work: Callable[[], Any]) -> Any:
        """Add how long the work takes."""
        started_s = time.perf_counter()
        try:
            return work()
        finally:
            with self._lock:
                self.seconds += time.perf_counter() - started_s


class Supervisor(OpenAIHandler):
    """Each of its replies is waited for."""

    def __init__(self, waited: Waited, model: str, url: str) -> None:
        super().__init__(model, url, "none")
        self._waited = waited

    def chat(self, messages: Any, **kw: Any) -> Any:
        return self._waited.during(lambda: super(Supervisor, self).chat(messages, **kw))


class Worker(OpenAIHandler):
    """Each of its batches is waited for."""

    def __init__(self, waited: Waited, url: str) -> None:
        super().__init__(WORKER, url, "none")
        self._waited = waited

    def chat_batch(self, message_batches: Any, **kw: Any) -> Any:
        return self._waited.during(lambda: super(Worker, self).chat_batch(message_batches, **kw))


class Watched(REPL):
    """Notes how long its jail took to start, and what its keeper has used after that."""

    keepers_cpu_s = 0.0
    starting = Waited()

    def start(self) -> None:
        Watched.starting.during(super().start)
        self._before_s = self._keeper_cpu_s()

    def close(self) -> None:
        if self.sandbox is not None:
            Watched.keepers_cpu_s += self._keeper_cpu_s() - self._before_s
        super().close()

    def _keeper_cpu_s(self) -> float:
        assert self.sandbox is not None
        tasks = Path(f"/proc/{self.sandbox.producer.pid}/task")
        total_ns = 0
        with suppress(FileNotFoundError):
            for schedstat in tasks.glob("*/schedstat"):
                total_ns += int(schedstat.read_text().split()[0])
        return total_ns / NS


class Distill(Running):
    """All runs in this process, on its one loop."""

    def __init__(self, url: str) -> None:
        self._sdk = SdkClock()
        self._waited = Waited()
        self._supervisor = Supervisor(self._waited, "distill", url)
        self._worker = Worker(self._waited, url)
        self._text = text()

    def run(self, block: Block) -> Took:
        folder = Path(tempfile.mkdtemp(prefix="turns-"))
        sdk, waited, keepers = self._sdk.cpu_s, self._waited.seconds, Watched.keepers_cpu_s
        starting_s = Watched.starting.seconds
        results = asyncio.run(self._runs(block, folder))
        took = Took(
            run_s=sum(result.elapsed for result in results),
            start_s=Watched.starting.seconds - starting_s,
            model_s=self._waited.seconds - waited,
            sdk_cpu_s=self._sdk.cpu_s - sdk,
            keeper_cpu_s=Watched.keepers_cpu_s - keepers,
            jail_cpu_s=sum(result.answer for result in results),
        )
        assert all(result.iterations == block.turns for result in results)
        if block.runs == 1:
            took.conversations = [
                list(run.conversation()) for run in traces.read(folder).runs.values()
            ]
        shutil.rmtree(folder)
        return took

    async def _runs(self, block: Block, folder: Path) -> list[RunResult]:
        question = QUESTION.format(turns=block.turns)
        return await asyncio.gather(
            *(
                arun(
                    *(question, self._text, self._supervisor, self._worker),
                    log_dir=folder,
                    max_iterations=block.turns + 1,
                    repl_class=Watched,
                )
                for _ in range(block.runs)
            )
        )
