"""An engine that is up: workers, and the runs that use them, for this process or for clients.

``distill up`` makes one. With a question it answers that and ends; without, it stays and
answers clients on a third ROUTER. Keys stay here.
"""

import asyncio
import functools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from distill.adapters import NamedAdapter
from distill.again import check_resumable, replay_on_loop, resume_on_loop
from distill.budget import Budget
from distill.dry_run import Estimate, estimate_on_loop
from distill.errors import DistillError, InputError, MachineError
from distill.limits import Limits, replaced
from distill.local_supervisor import LocalSupervisor, check_local, not_served, queue_of
from distill.models import ModelHandler, model_name
from distill.notices import notice
from distill.orchestrator import answer_on_loop
from distill.packages import prepare
from distill.progress import Progress
from distill.protocol import PROTOCOL_VERSION
from distill.protocol import client_link as wire
from distill.protocol import worker_link as worker_wire
from distill.protocol.codec import DRIVER_TO_CLIENT
from distill.protocol.conversation import Conversation
from distill.protocol.errors import ProtocolError
from distill.protocol.message import Message, Record, Welcome
from distill.protocol.sandbox_link import Wanted
from distill.protocol.sockets import Inbound
from distill.rates import Rates, taken_from
from distill.run_result import RunResult
from distill.summary import summary
from distill.supervisor import background, driver, standby
from distill.supervisor.adapters import Served
from distill.supervisor.answer_cache import AnswerCaching
from distill.supervisor.backends import Backend, FleetBackend, HandlerBackend
from distill.supervisor.dialects import DialectName
from distill.supervisor.fleet import Fleet
from distill.supervisor.placement import Placement
from distill.supervisor.recording import Answers
from distill.supervisor.workers import SUPERVISOR_PREFIX, WorkerSpec
from distill.supervisors import RecordedSupervisor, recorded_run, supervisor_from
from distill.texts import Text, Texts
from distill.traces import Run, records
from distill.version import __version__
from distill.worker_settings import (
    DEFAULT_MODEL,
    WorkerSettings,
    endpoint_worker,
    placed_specs,
    specs_of,
)

PROGRESS_EVERY_S = 0.25
STATUS_LIMIT_S = 5.0
OWN_ASK = "up"
"""The id of the question that an engine was started for."""
NO_MODEL = "--base-url and --supervisor-…-per-minute need --supervisor: who goes on with the run"
NO_REPLAY = "--replay-answers is for --supervisor replay:RUN"


class AskOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client may set of a run; ``distill.run`` documents them."""

    max_iterations: int = 15
    output_limit: int | None = None
    worker_ctx_k: int | None = None
    record: Record = "ids"
    log_dir: str | None = None
    label: str | None = None
    worker_options: dict[str, Any] | None = None
    limits: dict[str, int | float] = {}
    sandbox_packages: tuple[str, ...] = ()
    adapter: str | None = None
    answer_cache: AnswerCaching = "off"
    replay_answers: Answers = "log"
    answer_schema: dict[str, Any] | None = None
    quote_check: bool = False
    max_depth: int = 1
    sub_supervisor: str | None = None
    dialect: DialectName = "native"
    primitives: tuple[str, ...] | dict[str, str] = ()
    max_turns: int | None = None
    max_worker_calls: int | None = None
    max_tokens: int | None = None
    max_dollars: float | None = None
    max_gpu_s: float | None = None
    max_wall_s: float | None = None
    prices: str | dict[str, Any] | None = None
    show_context_chars: int = 0


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
        self._fleet: Fleet | None = None
        self._placement: Placement | None = None
        self._backend: Backend | None = None
        self._model_names: dict[str, str] = {}
        """The models of this engine's own workers, by what the user called them."""
        self._card: worker_wire.ModelCard | None = None
        self._clients: dict[str, Conversation] = {}
        self._asks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._loads: set[asyncio.Task[None]] = set()
        self._texts = Texts()

    @property
    def endpoint(self) -> str:
        """Where clients reach it."""
        return self._host.endpoints["clients"]

    @property
    def worker_name(self) -> str:
        """The worker model's name, once it is up."""
        return self._backend.name if self._backend is not None else ""

    @property
    def wanted(self) -> str:
        """What ``start`` brings up, for people."""
        worker = f"the worker: {self.settings.model or 'SmolLM2-135M-Instruct'}"
        if self.settings.only_joined:
            worker = "without a worker: one must join"
        if self._supervisor is None:
            return worker
        model = self._supervisor.model or "SmolLM2-135M-Instruct"
        return f"{worker}, and the supervisor: {model}"

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
        endpoint = self._host.endpoints["workers"]
        specs = [] if self.settings.url is not None else self._own_specs(on_status)
        if self._supervisor is not None:
            specs += specs_of(self._supervisor, endpoint, "supervisor")
        awaits_others = self.settings.listen is not None or self.settings.only_joined
        if specs or awaits_others:
            self._fleet = Fleet(self._host, specs, awaits_others=awaits_others)
        if self.settings.url is not None:
            self._backend = HandlerBackend(self._host, endpoint_worker(self.settings))
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
        if self.settings.ray is None:
            return specs_of(self.settings, self._host.endpoints["workers"])
        self._placement = Placement(self._host, self.settings.ray, on_status)
        return placed_specs(self.settings, self.settings.ray, self._placement, self._host)

    async def _bring_up_workers(self) -> None:
        if self.settings.url is None and self._fleet is not None:
            self._card = await self._fleet.ready()
            for adapter in self.settings.adapters:
                await self.load_adapter(adapter)
            default = self.settings.adapters[0].name if self.settings.adapters else None
            self._backend = self._workers(default)
            self._model_names[self.settings.model or DEFAULT_MODEL] = self._card.model

    async def _bring_up_supervisor(self) -> None:
        if self._supervisor is not None and self._fleet is not None:
            card = await self._fleet.ready("supervisor")
            self._model_names[self._supervisor.model or DEFAULT_MODEL] = card.model

    async def load_adapter(self, adapter: NamedAdapter, model: str | None = None) -> Served:
        """Load a version of an adapter everywhere. Raises InputError, ModelError. On the loop."""
        if self._fleet is None or self._card is None:
            raise InputError("adapters are loaded by worker servers; this engine has none")
        return await self._fleet.adapters.load(
            adapter.name, adapter.path, model or self._card.model
        )

    def _workers(self, adapter: str | None) -> Backend | None:
        """What answers a run: the engine's default, or an adapter by its name."""
        if adapter is None and self._backend is not None:
            return self._backend
        if self._fleet is None or self._card is None:
            raise InputError("--adapter is for worker servers; this engine has none")
        there = [served.name for served in self._fleet.adapters.served()]
        if adapter is not None and adapter not in there:
            listed = ", ".join(there) or "none"
            raise InputError(
                f"there is no adapter {adapter!r}; loaded: {listed}. A path has a / in it"
            )
        return FleetBackend(self._fleet, self._card, adapter)

    async def _workers_again(self, ask: wire.Ask) -> Backend | None:
        """What goes on answering a run: the adapter that is named now, or what did before.

        Where that is not here, it is another if this engine was started for just this run, with
        another worker. Raises InputError otherwise.
        """
        folder, adapter = str(ask.options["resume"]), ask.options.get("adapter")
        if adapter is not None:
            return self._workers(adapter)
        run = await driver.in_thread(self._host, check_resumable, folder)
        assert run.start is not None
        name = run.start.worker
        if self._backend is not None and self._backend.name == name:
            return self._backend
        if self._fleet is not None:
            if any(served.name == name for served in self._fleet.adapters.served()):
                return self._workers(name)
            if name in self._fleet.models() and (card := self._fleet.card(name)) is not None:
                return FleetBackend(self._fleet, card)
        was_adapter = any(call.model.adapter == name for call in run.calls)
        named = self.settings.adapters or (self.settings.model and not was_adapter)
        if ask.ask == OWN_ASK and named:
            return self._workers(None)
        raise _not_here(run, self._backend)

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
        supervisor = supervisor or await self._local_supervisor(ask)
        if (folder := options.get("resume")) is not None:
            workers = await self._workers_again(ask)
            result = await resume_on_loop(
                str(folder),
                supervisor,
                workers,
                sandbox=self._sandbox.tier,
                budget=Budget.taken_from(options),
                on_progress=on_progress,
            )
            return result, self._summary(result, supervisor, workers)
        assert supervisor is not None
        if isinstance(supervisor, RecordedSupervisor):
            return await self._do_again(supervisor, options, on_progress)
        text = await self._read(ask, options)
        asked = _checked(options)
        workers, budget = self._workers(asked.pop("adapter")), Budget.taken_from(asked)
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
        asked = _checked(options)
        workers = self._workers(asked["adapter"]) if asked["replay_answers"] == "worker" else None
        result = await replay_on_loop(
            supervisor.run,
            workers,
            log_dir=asked["log_dir"],
            label=asked["label"],
            sandbox=self._sandbox.tier,
            on_progress=on_progress,
        )
        return result, self._summary(result, supervisor, workers)

    async def _read(self, ask: wire.Ask, options: dict[str, Any]) -> Text:
        """The text that is asked about; takes the options that say how to read it."""
        encoding = str(options.pop("encoding", "utf-8"))
        read = functools.partial(self._texts.read, as_json=bool(options.pop("json", False)))
        text: Text = await driver.in_thread(self._host, read, ask.context_paths, encoding)
        return text

    async def _estimate(self, ask: wire.Ask, supervisor: ModelHandler | None) -> Estimate:
        """What the question would take; nothing is sent to a model."""
        options = dict(ask.options)
        supervisor = supervisor or await self._local_supervisor(ask)
        if supervisor is None or "resume" in options:
            raise InputError("--dry-run is for a new question")
        text = await self._read(ask, options)
        asked = _checked(options)
        asked.pop("replay_answers")
        workers, budget = self._workers(asked.pop("adapter")), Budget.taken_from(asked)
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

    async def _local_supervisor(self, ask: wire.Ask) -> LocalSupervisor | None:
        """The supervisor of this question, if it is a model of this engine's."""
        name, record = ask.supervisor, ask.options.get("record", "ids")
        if name is None and (folder := ask.options.get("resume")) is not None:
            run: Run = await driver.in_thread(self._host, recorded_run, str(folder))
            assert run.start is not None
            name, record = run.start.supervisor, run.start.options["record"]
        if name is None or not name.startswith(SUPERVISOR_PREFIX):
            return None
        named = name.removeprefix(SUPERVISOR_PREFIX)
        if self._fleet is None:
            raise not_served(named, [])
        queue = queue_of(self._model_names.get(named, named), self._fleet.models())
        return LocalSupervisor(self._fleet, self._host.loop, queue, record)

    def status(self) -> wire.EngineStatus:
        """How the engine, its workers and its runs are now. Raises TimeoutError: it hangs."""

        async def look() -> wire.EngineStatus:
            return self._status()

        looking = asyncio.run_coroutine_threadsafe(look(), self._host.loop)
        return looking.result(STATUS_LIMIT_S)

    def _status(self) -> wire.EngineStatus:
        fleet, activity = self._fleet, self._host.activity
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
        self._host.loop.call_soon_threadsafe(self._host.on_zone, "clients", self._on_batch)

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
        if self._fleet is not None and isinstance(self._backend, FleetBackend):
            return self._fleet.failure
        return None

    def _on_batch(self, batch: list[Inbound]) -> None:
        for inbound in batch:
            client = inbound.peer.decode("utf-8", "replace")
            try:
                self._on_inbound(client, inbound)
            except ProtocolError as error:
                self._host.event("client_protocol_error", self._host.producer, why=str(error))
                self._forget(client)

    def _on_inbound(self, client: str, inbound: Inbound) -> None:
        if inbound.event != "message":
            self._forget(client)
            return
        message = DRIVER_TO_CLIENT.decode(inbound.payload, peer=client)
        if isinstance(message, wire.ClientHello):
            self._forget(client)
            self._clients[client] = Conversation(wire.TRANSITIONS, peer=client)
        conversation = self._clients.setdefault(client, Conversation(wire.TRANSITIONS, peer=client))
        conversation.received(message)
        match message:
            case wire.ClientHello():
                self._send(client, Welcome(PROTOCOL_VERSION, 0.0))
                if message.protocol != PROTOCOL_VERSION:  # it has been told, and can't be served
                    self._forget(client)
            case wire.Inspect():
                self._send(client, self._status())
            case wire.Ask():
                task = self._host.loop.create_task(self._serve_ask(client, message))
                self._asks[client, message.ask] = task
            case wire.AddAdapter():
                task = self._host.loop.create_task(self._serve_adapter(client, message))
                self._loads.add(task)
                task.add_done_callback(self._loads.discard)
            case wire.Stop():
                if task_ := self._asks.get((client, message.ask)):
                    task_.cancel()

    def _forget(self, client: str) -> None:
        """A client is gone: its runs end."""
        self._clients.pop(client, None)
        for (owner, _), task in list(self._asks.items()):
            if owner == client:
                task.cancel()

    def _send(self, client: str, message: Message) -> None:
        conversation = self._clients.get(client)
        if conversation is None:
            return
        payload = DRIVER_TO_CLIENT.encode(message)  # type: ignore[arg-type]
        conversation.sent(message)
        self._host.send("clients", client, payload)

    async def _serve_ask(self, client: str, ask: wire.Ask) -> None:
        last_s = 0.0

        def tell(progress: Progress) -> None:
            nonlocal last_s
            if time.monotonic() - last_s >= PROGRESS_EVERY_S:
                last_s = time.monotonic()
                self._send(client, wire.Progress(ask.ask, *_progress_fields(progress)))

        try:
            result, text = await self._outcome(ask, tell)
            plain = msgspec.to_builtins(result, enc_hook=str)
            self._send(client, wire.Answer(ask.ask, plain, text))
        except DistillError as error:
            self._send(client, _failed(ask.ask, error))
        except Exception as error:
            self._send(client, wire.Failed(ask.ask, type(error).__name__, repr(error), 6))
            raise
        finally:
            self._asks.pop((client, ask.ask), None)

    async def _outcome(
        self, ask: wire.Ask, tell: Callable[[Progress], None]
    ) -> tuple[RunResult | Estimate, str]:
        """What a client's question comes to, or would take, and that for people."""
        options = dict(ask.options)
        is_dry = bool(options.pop("dry_run", False))
        base_url, rates = options.pop("base_url", None), taken_from(options, "supervisor")
        supervisor = None
        if (ask.supervisor or "").startswith(SUPERVISOR_PREFIX):
            check_local(base_url, rates)
        elif ask.supervisor is not None or "resume" not in options:
            supervisor = await driver.in_thread(
                self._host, _supervisor_here, ask.supervisor, base_url, rates, not is_dry
            )
        elif rates.are_given or base_url is not None:
            raise InputError(NO_MODEL)
        asked = msgspec.structs.replace(ask, options=options)
        if not is_dry:
            return await self.answer_on_loop(asked, tell, supervisor)
        estimated = await self._estimate(asked, supervisor)
        return estimated, str(estimated)

    async def _serve_adapter(self, client: str, asked: wire.AddAdapter) -> None:
        """It goes on when the client has gone: half a switch is none."""
        try:
            adapter = NamedAdapter(asked.adapter, asked.path)
            served = asdict(await self.load_adapter(adapter, asked.model))
            served["adapter"] = served.pop("name")
            self._send(client, wire.AdapterAdded(asked.ask, **served))
        except DistillError as error:
            self._send(client, _failed(asked.ask, error))
        except Exception as error:
            self._send(client, wire.Failed(asked.ask, type(error).__name__, repr(error), 6))
            raise

    # -- ending

    def close(self) -> None:
        """End the runs, the workers, and the driver with all its children."""
        try:
            background.wait(self._close())
        finally:
            self._host.close()

    async def _close(self) -> None:
        tasks = [*self._asks.values(), *self._loads]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._fleet is not None:
            await self._fleet.close()
        if self._placement is not None:
            await self._placement.close()


def _not_here(run: Run, backend: Backend | None) -> InputError:
    """Nobody here is the run's worker; what to do."""
    assert run.start is not None
    name = run.start.worker
    there = ", ".join(backend.models()) if backend is not None else ""
    return InputError(
        f"the worker of run {run.id} was {name!r}, which this engine does not serve; there is "
        f"{there or 'none'}. An adapter is loaded with --adapter {name}=PATH; --adapter OTHER goes "
        "on with another; for another model start an engine for this run: bin/distill-up --worker "
        f"MODEL --resume {run.folder}"
    )


def _failed(ask: str, error: DistillError) -> wire.Failed:
    return wire.Failed(ask, type(error).__name__, str(error), error.exit_code)


def _supervisor_here(
    spec: str | None, base_url: str | None, rates: Rates, check: bool = True
) -> ModelHandler:
    """A client's supervisor. This engine's key goes to no address that a client names."""
    key = "none" if base_url is not None else None
    try:
        return supervisor_from(spec, base_url, key=key, rates=rates, check=check)
    except InputError as error:
        raise InputError(f"{error} (keys are read where the engine was started)") from error


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """A client's options by name, all that there are. Raises InputError."""
    try:
        return msgspec.structs.asdict(msgspec.convert(options, AskOptions))
    except msgspec.ValidationError as error:
        raise InputError(f"bad option: {error}") from None


def _progress_fields(progress: Progress) -> Sequence[Any]:
    return (
        progress.run,
        progress.turn,
        progress.turns,
        progress.calls_done,
        progress.calls_total,
        progress.calls_failed,
        progress.tokens,
        progress.elapsed_s,
        progress.note,
        progress.sub_runs,
        progress.dollars,
    )
