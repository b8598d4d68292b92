"""The workers of an engine: brought up, and chosen for a run."""

import asyncio
from collections.abc import Callable, Sequence

from distill.adapters import NamedAdapter
from distill.ask_options import BARE
from distill.errors import DistillError, InputError
from distill.local_supervisor import LocalSupervisor, not_served, queue_of
from distill.protocol import client_link as wire
from distill.protocol import worker_link as worker_wire
from distill.resumable import check_resumable
from distill.supervisor import driver
from distill.supervisor.adapters import Served
from distill.supervisor.backends import Backend, FleetBackend, HandlerBackend
from distill.supervisor.fleet import Fleet
from distill.supervisor.placement import Placement
from distill.supervisor.workers import SUPERVISOR_PREFIX, WorkerSpec
from distill.supervisors import recorded_run
from distill.traces import Run
from distill.worker_settings import (
    DEFAULT_MODEL,
    SMALL_MODEL,
    WorkerSettings,
    endpoint_worker,
    placed_specs,
    specs_of,
)


class EngineWorkers:
    """Those of one engine, on the driver's loop.

    ``supervisor`` are worker servers that answer runs' supervisors, if it has some.
    """

    def __init__(
        self,
        host: driver.Driver,
        settings: WorkerSettings,
        supervisor: WorkerSettings | None = None,
    ) -> None:
        self._host = host
        self._settings = settings
        self._supervisor = supervisor
        self.fleet: Fleet | None = None
        self.placement: Placement | None = None
        self.backend: Backend | None = None
        """What answers a run that names no other, once it is up."""
        self._model_names: dict[str, str] = {}
        """The models of this engine's own workers, by what the user called them."""
        self._card: worker_wire.ModelCard | None = None

    async def start(self, on_status: Callable[[str], None]) -> None:
        """Bring them up. Raises ModelError when none comes; ``on_status`` as of ``Resident``."""
        endpoint = self._host.endpoints["workers"]
        specs = [] if self._settings.url is not None else self._own_specs(on_status)
        if self._supervisor is not None:
            specs += specs_of(self._supervisor, endpoint, "supervisor")
        awaits_others = self._settings.listen is not None or self._settings.only_joined
        if specs or awaits_others:
            self.fleet = Fleet(self._host, specs, awaits_others=awaits_others)
        if self._settings.url is not None:
            self.backend = HandlerBackend(self._host, endpoint_worker(self._settings))
        # At once: where one of them can't be, nobody waits for the other to load.
        roles = (self._bring_up_workers(), self._bring_up_supervisor())
        tasks = [self._host.loop.create_task(each) for each in roles]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def _own_specs(self, on_status: Callable[[str], None]) -> list[WorkerSpec]:
        """The worker servers that this engine starts, here or on a cluster."""
        if self._settings.ray is None:
            return specs_of(self._settings, self._host.endpoints["workers"])
        self.placement = Placement(self._host, self._settings.ray, on_status)
        return placed_specs(self._settings, self._settings.ray, self.placement, self._host)

    async def _bring_up_workers(self) -> None:
        if self._settings.url is None and self.fleet is not None:
            self._card = await self.fleet.ready()
            for adapter in self._settings.adapters:
                await self.load_adapter(adapter)
            self.backend = self.named(self._settings.default_adapter)
            self._model_names[self._settings.model or DEFAULT_MODEL] = self._card.model

    async def _bring_up_supervisor(self) -> None:
        if self._supervisor is not None and self.fleet is not None:
            card = await self.fleet.ready("supervisor")
            self._model_names[self._supervisor.model or DEFAULT_MODEL] = card.model

    async def load_adapter(self, adapter: NamedAdapter, model: str | None = None) -> Served:
        """Load a version of an adapter everywhere. Raises InputError, ModelError. On the loop."""
        if self.fleet is None or self._card is None:
            raise InputError("adapters are loaded by worker servers; this engine has none")
        return await self.fleet.adapters.load(adapter.name, adapter.path, model or self._card.model)

    def named(self, adapter: str | None) -> Backend | None:
        """What answers a run: the engine's default, an adapter by its name, or the bare model."""
        has_none = self.fleet is None or self._card is None
        if self.backend is not None and (adapter is None or (adapter == BARE and has_none)):
            return self.backend
        if self.fleet is None or self._card is None:
            raise InputError("--adapter is for worker servers; this engine has none")
        there = [served.name for served in self.fleet.adapters.served()]
        if adapter and adapter not in there:
            listed = ", ".join(there) or "none"
            raise InputError(
                f"there is no adapter {adapter!r}; loaded: {listed}. A path has a / in it"
            )
        return FleetBackend(self.fleet, self._card, adapter or None)

    async def again(self, ask: wire.Ask, *, is_own: bool) -> Backend | None:
        """What goes on answering a run: the adapter that is named now, or what did before.

        Where that is not here, it is another if this engine was started for just this run
        (``is_own``), with another worker. Raises InputError otherwise.
        """
        folder, adapter = str(ask.options["resume"]), ask.options.get("adapter")
        if adapter is not None:
            return self.named(adapter)
        run = await driver.in_thread(self._host, check_resumable, folder)
        assert run.start is not None
        name = run.start.worker
        if self.backend is not None and self.backend.name == name:
            return self.backend
        if self.fleet is not None:
            if any(served.name == name for served in self.fleet.adapters.served()):
                return self.named(name)
            if name in self.fleet.models() and (card := self.fleet.card(name)) is not None:
                return FleetBackend(self.fleet, card)
        if is_own and _is_named(run, self._settings):
            return self.named(None)
        raise _not_here(run, self.backend.models() if self.backend is not None else ())

    async def supervisor_of(self, ask: wire.Ask) -> LocalSupervisor | None:
        """The supervisor of this question, if it is a model of this engine's."""
        name, record = ask.supervisor, ask.options.get("record", "ids")
        if name is None and (folder := ask.options.get("resume")) is not None:
            run: Run = await driver.in_thread(self._host, recorded_run, str(folder))
            assert run.start is not None
            name, record = run.start.supervisor, run.start.options["record"]
        if name is None or not name.startswith(SUPERVISOR_PREFIX):
            return None
        named = name.removeprefix(SUPERVISOR_PREFIX)
        if self.fleet is None:
            raise not_served(named, [])
        queue = queue_of(self._model_names.get(named, named), self.fleet.models())
        return LocalSupervisor(self.fleet, self._host.loop, queue, record)

    @property
    def failure(self) -> DistillError | None:
        """Why they can answer no more, if that is so."""
        if self.fleet is not None and isinstance(self.backend, FleetBackend):
            return self.fleet.failure
        return None

    async def close(self) -> None:
        """End them."""
        if self.fleet is not None:
            await self.fleet.close()
        if self.placement is not None:
            await self.placement.close()


def check_again(run: Run, settings: WorkerSettings) -> None:
    """Raise InputError where ``again`` will, if that can be known before workers are loaded."""
    assert run.start is not None
    if settings.listen is not None or settings.only_joined or settings.ray is not None:
        return  # whoever joins may serve it
    served = settings.model or SMALL_MODEL
    if run.start.worker != served and not _is_named(run, settings):
        raise _not_here(run, [served])


def _is_named(run: Run, settings: WorkerSettings) -> bool:
    """Whether somebody has named who is to go on with it, in place of its worker."""
    assert run.start is not None
    was_adapter = any(call.model.adapter == run.start.worker for call in run.calls)
    return bool(settings.default_adapter or (settings.model and not was_adapter))


def _not_here(run: Run, served: Sequence[str]) -> InputError:
    """Nobody here is the run's worker; what to do."""
    assert run.start is not None
    name, there = run.start.worker, ", ".join(served)
    return InputError(
        f"the worker of run {run.id} was {name!r}, which this engine does not serve; there is "
        f"{there or 'none'}. An adapter is loaded with --adapter {name}=PATH; --adapter OTHER goes "
        "on with another; for another model start an engine for this run: bin/distill-up --worker "
        f"MODEL --resume {run.folder}"
    )
