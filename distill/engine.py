"""A client of an engine that is up: `distill run`, and ``Engine(endpoint)`` in Python."""

import asyncio
import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from distill import errors
from distill.adapters import NamedAdapter
from distill.answers import schema_of
from distill.budget import Budget
from distill.closing import Closing
from distill.dry_run import Estimate
from distill.errors import DistillError, InputError, MachineError
from distill.progress import Progress, shielded
from distill.protocol import PROTOCOL_VERSION
from distill.protocol import client_link as wire
from distill.protocol.codec import CLIENT_TO_DRIVER
from distill.protocol.conversation import Conversation
from distill.protocol.errors import ProtocolError
from distill.protocol.message import Message, Welcome
from distill.protocol.sockets import Inbound, Sockets
from distill.run_result import RunResult
from distill.supervisor import background, run_directory
from distill.supervisor.adapters import Served
from distill.supervisor.journal import encode_context
from distill.supervisor.recording import Answers
from distill.supervisors import REPLAY

Outcome = TypeVar("Outcome", RunResult, Estimate)

ENGINE = ""
"""In place of a question's id: what the engine says of itself."""
GREETING_S = 5.0
STATUS_EVERY_S = 1.0
PATIENCE_S = 1.0
"""How often a client that waits looks whether the engine still lives."""


def find_endpoint() -> str:
    """The endpoint of this user's newest engine. Raises MachineError if none is up."""
    for path in run_directory.living():
        if (path / "resident").exists():
            return f"ipc://{path}/clients.sock"
    raise MachineError("no engine is up. Start one in another terminal: bin/distill-up")


class Engine(Closing):
    """An engine at ``endpoint`` (the newest of this user if None). A context manager.

    Raises MachineError if nobody answers there. Several questions may be asked at a time, from
    several threads; what comes back is sorted by question on the background loop.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = endpoint or find_endpoint()
        if not self.endpoint.startswith("ipc:///"):
            raise InputError(
                f"{self.endpoint} is no endpoint of an engine: it is what `distill up` prints, "
                "ipc:///…/clients.sock"
            )
        name = f"client-{os.getpid()}-{secrets.token_hex(4)}"
        self._heard: dict[str, asyncio.Queue[Message]] = {}
        """What came for each question that is open, and for ENGINE."""
        self._failure: ProtocolError | None = None
        self._inspecting = asyncio.Lock()
        self._conversation = Conversation(wire.TRANSITIONS, peer="engine")
        self._sockets = Sockets()
        self._sockets.connect(
            "engine", self.endpoint, identity=name.encode(), limit_bytes=wire.FRAME_LIMIT_BYTES
        )
        try:
            background.wait(self._greet(wire.ClientHello(PROTOCOL_VERSION, name, os.getpid())))
        except BaseException:
            self.close()
            raise

    async def _greet(self, hello: wire.ClientHello) -> None:
        self._sockets.listen(asyncio.get_running_loop(), self._on_batch)
        with self._hearing(ENGINE) as heard:
            self._send(hello)
            welcome = await self._next(heard, GREETING_S)
        if not isinstance(welcome, Welcome):
            raise MachineError(f"no engine answers at {self.endpoint}")
        if welcome.protocol != PROTOCOL_VERSION:
            raise MachineError(
                f"the engine at {self.endpoint} speaks version {welcome.protocol} of the protocol, "
                f"this distill {PROTOCOL_VERSION}: end it and start it again from this installation"
            )

    def _send(self, message: Message) -> None:
        payload = CLIENT_TO_DRIVER.encode(message)  # type: ignore[arg-type]
        self._conversation.sent(message)
        self._sockets.send("engine", payload)

    def _on_batch(self, batch: list[Inbound]) -> None:
        """On the loop: each message goes to who waits for it; what nobody waits for is dropped."""
        try:
            for inbound in batch:
                message = CLIENT_TO_DRIVER.decode(inbound.payload, peer="engine")
                self._conversation.received(message)
                heard = self._heard.get(getattr(message, "ask", ENGINE))
                if heard is not None:
                    heard.put_nowait(message)
        except ProtocolError as error:
            self._failure = error

    @contextlib.contextmanager
    def _hearing(self, ask: str) -> Iterator[asyncio.Queue[Message]]:
        heard = self._heard[ask] = asyncio.Queue()
        try:
            yield heard
        finally:
            del self._heard[ask]

    async def _next(
        self, heard: asyncio.Queue[Message], deadline_s: float = PATIENCE_S
    ) -> Message | None:
        """What comes next, None if nothing does. Raises MachineError if the engine has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                return await heard.get()
        if self._failure is not None:
            raise self._failure
        if self.has_ended:
            raise MachineError(
                "the engine has ended; what was done so far is in the run's log folder. "
                "Start it again with bin/distill-up"
            )
        return None

    def run(
        self,
        query: str,
        context: str | list[Any] | dict[str, Any],
        supervisor: str | None = None,
        *,
        budget: Budget | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> RunResult:
        """Put a question about a text; options are ``distill.run``'s that JSON can hold."""
        encode_context(context)  # refused here as it would be there
        options["answer_schema"] = schema_of(options.get("answer_schema"))
        if options.pop("answer_check", None) is not None:
            raise InputError(
                "answer_check is a function of this process, and the engine is another: give the "
                "engine answer_schema or quote_check, or use distill.run"
            )
        primitives = options.get("primitives")
        if isinstance(primitives, Mapping) and any(map(callable, primitives.values())):
            raise InputError(
                "a function can't be sent to an engine: its runs have ready primitives, by name "
                '(primitives=["search"]); distill.run takes functions'
            )
        options |= budget.options if budget is not None else {}
        suffix = ".txt" if isinstance(context, str) else ".json"
        with tempfile.NamedTemporaryFile("w", suffix=suffix, encoding="utf-8") as file:
            file.write(context if isinstance(context, str) else json.dumps(context))
            file.flush()
            if not isinstance(context, str):
                options["json"] = True
            result, _ = self.ask(query, [file.name], supervisor, options, on_progress)
        return result

    def resume(
        self,
        run: str | Path,
        supervisor: str | None = None,
        *,
        budget: Budget | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> RunResult:
        """Go on with a run that was cut off (``distill.resume``) with this engine's workers."""
        options = {"resume": str(Path(run).absolute())} | (budget.options if budget else {})
        return self.ask("", [], supervisor, options, on_progress)[0]

    def replay(
        self,
        run: str | Path,
        *,
        answers: Answers = "log",
        on_progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> RunResult:
        """Do a recorded run again (``distill.replay``); ``answers`` "worker" are this engine's.

        Options are ``log_dir``, ``label`` and ``adapter``.
        """
        options["replay_answers"] = answers
        return self.ask("", [], f"{REPLAY}{Path(run).absolute()}", options, on_progress)[0]

    def load_adapter(
        self, path: str | Path, name: str | None = None, *, model: str | None = None
    ) -> Served:
        """Load a LoRA adapter into every worker of ``model`` (the engine's own if None).

        Calls name it with ``worker(prompt, model=name)``, runs with ``adapter=name``. A name that
        is there gets a new version, which later calls are answered with; what is in flight ends
        on what it began with. ``path`` is a folder as the workers see it (made absolute here), one
        for each version: a worker that starts later loads it again. Raises InputError, ModelError.
        """
        where = Path(path).expanduser().absolute()
        adapter = NamedAdapter(name or Path(path).name, str(where))
        return background.wait(self.load_adapter_on_loop(adapter, model))

    async def load_adapter_on_loop(self, adapter: NamedAdapter, model: str | None = None) -> Served:
        """The same on the background loop."""
        ask = secrets.token_hex(8)
        with self._hearing(ask) as heard:
            self._send(wire.AddAdapter(ask, adapter.name, adapter.path, model))
            while True:
                message = await self._next(heard)
                if isinstance(message, wire.AdapterAdded):
                    told = msgspec.structs.asdict(message)
                    del told["ask"]
                    return Served(told.pop("adapter"), **told)
                if isinstance(message, wire.Failed):
                    raise _error(message)

    def ask(
        self,
        query: str,
        paths: Sequence[str],
        supervisor: str | None,
        options: Mapping[str, Any],
        on_progress: Callable[[Progress], None] | None = None,
        on_status: Callable[[wire.EngineStatus], None] | None = None,
    ) -> tuple[RunResult, str]:
        """Put a question about files; the result and its summary. Raises what the run raised.

        ``on_status`` hears every STATUS_EVERY_S how the engine's workers do.
        """
        asking = self.ask_on_loop(query, paths, supervisor, options, on_progress, on_status)
        return background.wait(asking)

    async def ask_on_loop(
        self,
        query: str,
        paths: Sequence[str],
        supervisor: str | None,
        options: Mapping[str, Any],
        on_progress: Callable[[Progress], None] | None = None,
        on_status: Callable[[wire.EngineStatus], None] | None = None,
    ) -> tuple[RunResult, str]:
        """The same on the background loop. If it is cancelled, the run is."""
        ask = secrets.token_hex(8)
        with self._hearing(ask) as heard:
            self._send(wire.Ask(ask, query, _absolute(paths), supervisor, dict(options)))
            watching = asyncio.create_task(self._watch(on_status))
            try:
                return await self._ended(heard, RunResult, on_progress)
            except asyncio.CancelledError:
                self._send(wire.Stop(ask))
                raise
            finally:
                watching.cancel()

    async def _ended(
        self,
        heard: asyncio.Queue[Message],
        kind: type[Outcome],
        on_progress: Callable[[Progress], None] | None = None,
    ) -> tuple[Outcome, str]:
        hear = shielded(on_progress, "on_progress")
        while True:
            message = await self._next(heard)
            if isinstance(message, wire.Progress) and hear is not None:
                hear(_progress(message))
            elif isinstance(message, wire.Answer):
                result = msgspec.convert(message.result, kind, dec_hook=_path)
                return result, message.summary
            elif isinstance(message, wire.Failed):
                raise _error(message)

    async def _watch(self, on_status: Callable[[wire.EngineStatus], None] | None) -> None:
        while on_status is not None:
            with contextlib.suppress(MachineError):  # who waits for the answer hears of it
                on_status(await self.status_on_loop())
            await asyncio.sleep(STATUS_EVERY_S)

    def estimate(
        self, query: str, paths: list[str], supervisor: str | None, options: dict[str, Any]
    ) -> Estimate:
        """What a question about files would take; nothing is sent to a model."""
        return background.wait(self._estimate(query, paths, supervisor, options))

    async def _estimate(
        self, query: str, paths: list[str], supervisor: str | None, options: dict[str, Any]
    ) -> Estimate:
        ask = secrets.token_hex(8)
        with self._hearing(ask) as heard:
            dry = {**options, "dry_run": True}
            self._send(wire.Ask(ask, query, _absolute(paths), supervisor, dry))
            estimate, _ = await self._ended(heard, Estimate)
        return estimate

    def status(self) -> wire.EngineStatus:
        """How the engine, its workers and its runs are now. Raises MachineError: no answer."""
        return background.wait(self.status_on_loop())

    async def status_on_loop(self) -> wire.EngineStatus:
        """The same on the background loop."""
        async with self._inspecting:
            with self._hearing(ENGINE) as heard:
                self._send(wire.Inspect())
                message = await self._next(heard, GREETING_S)
        if isinstance(message, wire.EngineStatus):
            return message
        raise MachineError(f"the engine at {self.endpoint} does not say how it is")

    @property
    def has_ended(self) -> bool:
        """Whether there is no engine any more."""
        return not Path(self.endpoint.removeprefix("ipc://")).exists()

    def close(self) -> None:
        """Leave; questions that are open are cancelled."""
        self._sockets.close()


def _absolute(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(Path(path).resolve()) for path in paths)


def _progress(message: wire.Progress) -> Progress:
    return Progress(
        message.run,
        message.turn,
        message.turns,
        message.calls_done,
        message.calls_total,
        message.calls_failed,
        message.tokens,
        message.elapsed_s,
        message.sub_runs,
        message.dollars,
        message.note,
    )


def _path(kind: type, value: Any) -> Any:
    return Path(value) if issubclass(kind, Path) else value


def _error(failed: wire.Failed) -> DistillError:
    """The engine's error as the class it had there, where that is public."""
    kind: Any = getattr(errors, failed.kind, DistillError)
    if not (isinstance(kind, type) and issubclass(kind, DistillError)):
        kind = DistillError
    if issubclass(kind, errors.WorkerBatchError):
        kind = errors.ModelError
    error: DistillError = kind(failed.detail)
    return error
