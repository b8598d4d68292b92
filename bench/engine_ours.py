"""distill as a run uses it: worker_batch, the fleet, real worker servers, the log."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

from dispatch_prompts import context
from engine_contestant import Answer, Answering
from engine_models import Setting

from distill.protocol import worker_link as wire
from distill.supervisor import background, driver
from distill.supervisor.backends import Backend, FleetBackend
from distill.supervisor.calls import WorkerCalls
from distill.supervisor.children import scrubbed_environment
from distill.supervisor.fleet import Fleet
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.run_log import RunLog
from distill.supervisor.workers import WorkerSpec
from distill.traces.records import Call
from tests.engine_stand_in.spec import calls_in

ROOT = Path(__file__).parent.parent


class Distill(Answering):
    """One driver, and a worker server for each setting; a run with a log for each ``ask``."""

    def __init__(self, *settings: Setting) -> None:
        self._host = driver.shared()
        self._index = SpanIndex(context())
        self._folder = Path(tempfile.mkdtemp(prefix="engine-bench-"))
        self.fleet, card = background.wait(self._start(settings))
        self.backend: Backend = FleetBackend(self.fleet, card)

    async def _start(self, settings: tuple[Setting, ...]) -> tuple[Fleet, wire.ModelCard]:
        endpoint = self._host.endpoints["workers"]
        fleet = Fleet(
            self._host, [_spec(endpoint, f"w{n}", setting) for n, setting in enumerate(settings)]
        )
        card = await fleet.ready()
        while not all(worker.is_ready for worker in fleet.workers()):
            if failed := [w.failure for w in fleet.workers() if w.failure is not None]:
                raise RuntimeError(failed[0].detail)
            await asyncio.sleep(0.1)
        return fleet, card

    def ask(self, asked: list[str], answer_tokens: int) -> None:
        """As a cell does."""
        calls = background.wait(self._begin())
        self._texts = calls.worker_batch(asked, chat=False, max_tokens=answer_tokens)

    async def _begin(self) -> WorkerCalls:
        self._journal = self._host.open_journal(self._folder / "log")
        return WorkerCalls(self._host, self.backend, RunLog(self._journal, "bench"), self._index)

    def logged(self) -> list[Call]:
        """The calls in the log of the last ``ask``, in the order asked; the log is removed."""
        background.wait(self._end())
        calls = sorted(calls_in(self._folder / "log"), key=lambda call: call.item)
        shutil.rmtree(self._folder / "log")
        return calls

    async def _end(self) -> None:
        self._host.release_journal(self._journal)

    def answers(self) -> list[Answer]:
        """As they are in the log, where each must be as it was given."""
        calls = self.logged()
        assert [call.response for call in calls] == self._texts
        return [
            Answer(call.response or "", call.usage.input_tokens, call.usage.output_tokens)
            for call in calls
        ]

    def close(self) -> None:
        """End all of it."""
        background.wait(self.fleet.close())
        shutil.rmtree(self._folder, ignore_errors=True)
        self._host.close()


def _spec(endpoint: str, name: str, setting: Setting) -> WorkerSpec:
    argv = [sys.executable, "-m", "distill.worker_server", "--connect", endpoint]
    argv += ["--worker", name, "--model", setting.folder]
    argv += ["--window-tokens", str(setting.window_tokens)]
    argv += ["--engine", json.dumps(setting.arguments)]
    argv += ["--gpu", setting.gpu] if setting.gpu is not None else []
    argv += ["--cores", ",".join(map(str, setting.cores))] if setting.cores else []
    return WorkerSpec(name, tuple(argv), {**scrubbed_environment(), "PYTHONPATH": str(ROOT)})
