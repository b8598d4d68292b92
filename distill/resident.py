"""An engine that is up: workers, and the runs that use them, for this process or for clients.

``distill up`` makes one. With a question it answers that and ends; without, it stays and
answers clients on a third ROUTER. Keys stay here.
"""

import asyncio
import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distill.adapters import NamedAdapter
from distill.again import replay_on_loop, resume_on_loop
from distill.ask_options import NO_REPLAY, checked
from distill.budget import Budget
from distill.clients import Clients
from distill.dry_run import Estimate, estimate_on_loop
from distill.endpoint import address_of
from distill.engine_workers import EngineWorkers
from distill.errors import DistillError, InputError, MachineError
from distill.limits import Limits, replaced
from distill.models import ModelHandler, model_name
from distill.notices import notice
from distill.orchestrator import answer_on_loop
from distill.packages import prepare
from distill.progress import Progress
from distill.protocol import client_link as wire
from distill.protocol.sandbox_link import Wanted
from distill.run_result import RunResult
from distill.summary import summary
from distill.supervisor import background, driver, standby
from distill.supervisor.adapters import Served
from distill.supervisor.backends import Backend
from distill.supervisors import RecordedSupervisor
from distill.texts import Text, Texts
from distill.traces import records
from distill.version import __version__
from distill.worker_settings import SMALL_MODEL, WorkerSettings

STATUS_LIMIT_S = 5.0
OWN_ASK = "up"
"""The id of the question that an engine was started for."""


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """What all runs of an engine have in common; a run's own limits and packages add to it."""

    limits: Limits = field(default_factory=Limits)
    packages: tuple[str, ...] = ()
    tier: Wanted = "auto"


class Resident:
    """The engine of this process. Methods are called from any thread but the loop's.

    ``supervisor`` are worker servers that answer runs' supervisors, if it has some.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        sandbox: SandboxSettings = SandboxSettings(),
        supervisor: WorkerSettings | None = None,
    ) -> None:
        self.settings = settings
        self._sandbox = sandbox
        self._supervisor = supervisor
        self._host = driver.shared()
        self._workers = EngineWorkers(self._host, settings, supervisor)
        self._clients = Clients(self._host, self)
        self._texts = Texts()

    @property
    def endpoint(self) -> str:
        """Where clients reach it."""
        return self._host.endpoints["clients"]

    @property
    def worker_name(self) -> str:
        """The worker model's name, once it is up."""
        backend = self._workers.backend
        return backend.name if backend is not None else ""

    @property
    def wanted(self) -> str:
        """What ``start`` brings up, for people."""
        settings = self.settings
        worker = f"starting the worker: {settings.model or SMALL_MODEL}"
        if settings.url is not None:
            where = address_of(settings.url, "--worker-url").where
            worker = f"using the worker {settings.model} at {where}"
        if settings.only_joined:
            worker = "starting without a worker: one must join"
        if self._supervisor is None:
            return worker
        model = self._supervisor.model or SMALL_MODEL
        return f"{worker}; starting the supervisor: {model}"

    def listen(self, tell: Callable[[str], None]) -> str | None:
        """Let workers on other machines join, if that was asked for; the address that they dial.

        ``tell`` gets a line when one comes, goes or is refused. Raises InputError if the address
        can't be had.
        """
        if self.settings.listen is None and self.settings.ray is None:
            return None

        def hear(event: records.Event) -> None:
            if (line := notice(event)) is not None:
                tell(line)

        self._host.on_event = hear
        if self.settings.listen is None:
            return None
        return self._host.listen_to_remote_workers(self.settings.listen)

    def start(self, on_status: Callable[[str], None] = lambda _: None) -> None:
        """Bring the workers up. Raises ModelError when none comes.

        ``on_status`` hears, on the loop, what workers on a cluster wait for; now and later.
        """
        background.wait(self._start(on_status))

    async def _start(self, on_status: Callable[[str], None]) -> None:
        await driver.in_thread(self._host, prepare, self._sandbox.packages)
        await self._workers.start(on_status)

    async def load_adapter(self, adapter: NamedAdapter, model: str | None = None) -> Served:
        """Load a version of an adapter everywhere. Raises InputError, ModelError. On the loop."""
        return await self._workers.load_adapter(adapter, model)

    def answer(
        self,
        ask: wire.Ask,
        on_progress: Callable[[Progress], None],
        supervisor: ModelHandler | None,
    ) -> tuple[RunResult, str]:
        """Run one question to its end; the result and its summary."""
        return background.wait(self.answer_on_loop(ask, on_progress, supervisor))

    async def answer_on_loop(
        self,
        ask: wire.Ask,
        on_progress: Callable[[Progress], None],
        supervisor: ModelHandler | None,
    ) -> tuple[RunResult, str]:
        """The same on the loop.

        ``supervisor`` may be None where a run goes on: then it is the recorded one.
        """
        options = dict(ask.options)
        if not isinstance(supervisor, RecordedSupervisor):  # which asks no device, or the log's
            budget = Budget.taken_from(dict(options))
            budget.check_devices(there=self._workers.fleet is not None)
        supervisor = supervisor or await self._workers.supervisor_of(ask)
        if (folder := options.get("resume")) is not None:
            workers = await self._workers.again(ask, is_own=ask.ask == OWN_ASK)
            result = await resume_on_loop(
                str(folder),
                supervisor,
                workers,
                sandbox=self._sandbox.tier,
                budget=Budget.taken_from(options),
                on_progress=on_progress,
                otlp=options.get("otlp"),
                otlp_content=bool(options.get("otlp_content")),
            )
            return result, self._summary(result, supervisor, workers)
        assert supervisor is not None
        if isinstance(supervisor, RecordedSupervisor):
            return await self._do_again(supervisor, options, on_progress)
        text = await self._read(ask, options)
        asked = checked(options)
        workers, budget = self._workers.named(asked.pop("adapter")), Budget.taken_from(asked)
        if asked.pop("replay_answers") != "log":
            raise InputError(NO_REPLAY)
        result = await answer_on_loop(
            ask.query,
            text.context,
            supervisor,
            workers,
            sources=text.sources,
            on_progress=on_progress,
            budget=budget,
            **self._own(asked),
        )
        return result, self._summary(result, supervisor, workers)

    async def _do_again(
        self,
        supervisor: RecordedSupervisor,
        options: dict[str, Any],
        on_progress: Callable[[Progress], None],
    ) -> tuple[RunResult, str]:
        """Do a recorded run again. Options that are its own come from its log."""
        options.pop("encoding", None)  # the recorded text has been read already
        asked = checked(options)
        workers = (
            self._workers.named(asked["adapter"]) if asked["replay_answers"] == "worker" else None
        )
        result = await replay_on_loop(
            supervisor.run,
            workers,
            log_dir=asked["log_dir"],
            label=asked["label"],
            sandbox=self._sandbox.tier,
            on_progress=on_progress,
            otlp=asked["otlp"],
            otlp_content=asked["otlp_content"],
        )
        return result, self._summary(result, supervisor, workers)

    async def _read(self, ask: wire.Ask, options: dict[str, Any]) -> Text:
        """The text that is asked about; takes the options that say how to read it."""
        encoding = str(options.pop("encoding", "utf-8"))
        read = functools.partial(self._texts.read, as_json=bool(options.pop("json", False)))
        text: Text = await driver.in_thread(self._host, read, ask.context_paths, encoding)
        return text

    async def estimate_on_loop(self, ask: wire.Ask, supervisor: ModelHandler | None) -> Estimate:
        """What the question would take; nothing is sent to a model."""
        options = dict(ask.options)
        supervisor = supervisor or await self._workers.supervisor_of(ask)
        if supervisor is None or "resume" in options:
            raise InputError("--dry-run is for a new question")
        text = await self._read(ask, options)
        asked = checked(options)
        asked.pop("replay_answers")
        workers, budget = self._workers.named(asked.pop("adapter")), Budget.taken_from(asked)
        assert workers is not None
        return await estimate_on_loop(
            ask.query, text.context, supervisor, workers, budget=budget, **self._own(asked)
        )

    def _own(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The options of a run, with what all runs of this engine have in common."""
        return {
            **asked,
            "limits": replaced(self._sandbox.limits, asked["limits"]),
            "sandbox_packages": (*self._sandbox.packages, *asked["sandbox_packages"]),
            "sandbox": self._sandbox.tier,
        }

    def status(self) -> wire.EngineStatus:
        """How the engine, its workers and its runs are now. Raises TimeoutError: it hangs."""

        async def look() -> wire.EngineStatus:
            return self.status_now()

        looking = asyncio.run_coroutine_threadsafe(look(), self._host.loop)
        return looking.result(STATUS_LIMIT_S)

    def status_now(self) -> wire.EngineStatus:
        """The same on the loop."""
        fleet, activity = self._workers.fleet, self._host.activity
        return wire.EngineStatus(
            version=__version__,
            pid=os.getpid(),
            up_s=time.monotonic() - activity.since_s,
            model=self.worker_name,
            workers=fleet.status() if fleet is not None else (),
            waiting=fleet.waiting if fleet is not None else 0,
            runs=activity.runs,
            runs_total=activity.runs_total,
            host_calls_total=dict(activity.host_calls),
            dropped_results=fleet.dropped_results if fleet is not None else 0,
        )

    def _summary(
        self, result: RunResult, supervisor: ModelHandler | None, workers: Backend | None
    ) -> str:
        name = model_name(supervisor) if supervisor is not None else "the recorded supervisor"
        return summary(result, name, workers.name if workers is not None else "nobody")

    # -- clients

    def serve(self) -> None:
        """Answer clients from now on, and let them find this engine."""
        self._host.loop.call_soon_threadsafe(
            standby.of(self._host).expect_runs, self._sandbox.packages, self._sandbox.tier
        )
        (self._host.run_directory / "resident").touch()
        self._clients.serve()

    def wait(self) -> None:
        """Wait until the engine can serve no more: its launcher has died.

        Raises ModelError or MachineError when its workers have, for good.
        """
        while not self._host.lost.wait(1.0):
            if (failure := self.lost()) is not None:
                raise failure

    def lost(self) -> DistillError | None:
        """Why it can run no more questions, if that is so: its launcher or its workers died."""
        if self._host.lost.is_set():
            return MachineError(
                "the engine's launcher died, and the workers with it; start it again"
            )
        return self._workers.failure

    # -- ending

    def close(self) -> None:
        """End the runs, the workers, and the driver with all its children."""
        try:
            background.wait(self._close())
        finally:
            self._host.close()

    async def _close(self) -> None:
        await self._clients.close()
        await self._workers.close()
