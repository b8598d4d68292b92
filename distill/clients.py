"""The clients of an engine: programs of this user that ask it questions, on a ROUTER."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import msgspec

from distill.adapters import NamedAdapter
from distill.ask_options import NO_MODEL
from distill.dry_run import Estimate
from distill.errors import DistillError, InputError
from distill.local_supervisor import check_local
from distill.models import ModelHandler
from distill.progress import Progress
from distill.protocol import PROTOCOL_VERSION
from distill.protocol import client_link as wire
from distill.protocol.codec import DRIVER_TO_CLIENT
from distill.protocol.conversation import Conversation
from distill.protocol.errors import ProtocolError
from distill.protocol.message import Message, Welcome
from distill.protocol.sockets import Inbound
from distill.rates import Rates, taken_from
from distill.run_result import RunResult
from distill.supervisor import driver
from distill.supervisor.adapters import Served
from distill.supervisor.workers import SUPERVISOR_PREFIX
from distill.supervisors import supervisor_from

PROGRESS_EVERY_S = 0.25


class Answering(Protocol):
    """What clients ask of their engine (``distill.resident``, which stands above)."""

    async def answer_on_loop(
        self,
        ask: wire.Ask,
        on_progress: Callable[[Progress], None],
        supervisor: ModelHandler | None,
    ) -> tuple[RunResult, str]:
        """Run one question to its end; the result and its summary."""

    async def estimate_on_loop(self, ask: wire.Ask, supervisor: ModelHandler | None) -> Estimate:
        """What the question would take."""

    async def load_adapter(self, adapter: NamedAdapter, model: str | None = None) -> Served:
        """Load a version of an adapter everywhere."""

    def status_now(self) -> wire.EngineStatus:
        """How the engine, its workers and its runs are."""


class Clients:
    """Those of one engine; all but ``serve`` happens on the driver's loop."""

    def __init__(self, host: driver.Driver, engine: Answering) -> None:
        self._host, self._engine = host, engine
        self._clients: dict[str, Conversation] = {}
        self._asks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._loads: set[asyncio.Task[None]] = set()

    def serve(self) -> None:
        """Answer them from now on. From any thread."""
        self._host.loop.call_soon_threadsafe(self._host.on_zone, "clients", self._on_batch)

    async def close(self) -> None:
        """End what they have asked for."""
        tasks = [*self._asks.values(), *self._loads]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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
                self._send(client, self._engine.status_now())
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
                self._send(client, wire.Progress(ask.ask, *progress_fields(progress)))

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
                self._host, supervisor_here, ask.supervisor, base_url, rates, not is_dry
            )
        elif rates.are_given or base_url is not None:
            raise InputError(NO_MODEL)
        asked = msgspec.structs.replace(ask, options=options)
        if not is_dry:
            return await self._engine.answer_on_loop(asked, tell, supervisor)
        estimated = await self._engine.estimate_on_loop(asked, supervisor)
        return estimated, str(estimated)

    async def _serve_adapter(self, client: str, asked: wire.AddAdapter) -> None:
        """It goes on when the client has gone: half a switch is none."""
        try:
            adapter = NamedAdapter(asked.adapter, asked.path)
            served = asdict(await self._engine.load_adapter(adapter, asked.model))
            served["adapter"] = served.pop("name")
            self._send(client, wire.AdapterAdded(asked.ask, **served))
        except DistillError as error:
            self._send(client, _failed(asked.ask, error))
        except Exception as error:
            self._send(client, wire.Failed(asked.ask, type(error).__name__, repr(error), 6))
            raise


def _failed(ask: str, error: DistillError) -> wire.Failed:
    return wire.Failed(ask, type(error).__name__, str(error), error.exit_code)


def supervisor_here(
    spec: str | None, base_url: str | None, rates: Rates, check: bool = True
) -> ModelHandler:
    """A client's supervisor. This engine's key goes to no address that a client names."""
    key = "none" if base_url is not None else None
    try:
        return supervisor_from(spec, base_url, key=key, rates=rates, check=check)
    except InputError as error:
        raise InputError(f"{error} (keys are read where the engine was started)") from error


def progress_fields(progress: Progress) -> Sequence[Any]:
    """Its fields in the order of the message."""
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
