"""A client of an engine that is up: `distill run`, and ``Engine(endpoint)`` in Python."""

import json
import math
import os
import secrets
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from distill import errors
from distill.budget import Budget
from distill.errors import DistillError, InputError, MachineError
from distill.protocol import PROTOCOL_VERSION
from distill.protocol import client_link as wire
from distill.protocol.codec import CLIENT_TO_DRIVER
from distill.protocol.conversation import Conversation
from distill.protocol.message import Message, Welcome
from distill.protocol.sockets import Inbound, Sockets
from distill.rollout import Progress, RunResult
from distill.supervisor import run_directory
from distill.supervisor.adapters import Served
from distill.supervisor.journal import encode_context

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


class Engine:
    """An engine at ``endpoint`` (the newest of this user if None). A context manager.

    Raises MachineError if nobody answers there. One question at a time.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self.endpoint = endpoint or find_endpoint()
        if not self.endpoint.startswith("ipc:///"):
            raise InputError(
                f"{self.endpoint} is no endpoint of an engine: it is what `distill up` prints, "
                "ipc:///…/clients.sock"
            )
        name = f"client-{os.getpid()}-{secrets.token_hex(4)}"
        self._inbox: deque[Inbound] = deque()
        self._conversation = Conversation(wire.TRANSITIONS, peer="engine")
        self._sockets = Sockets()
        self._sockets.connect(
            "engine", self.endpoint, identity=name.encode(), limit_bytes=wire.FRAME_LIMIT_BYTES
        )
        self._send(wire.ClientHello(PROTOCOL_VERSION, name, os.getpid()))
        self._greet()

    def _greet(self) -> None:
        welcome = self._receive(GREETING_S)
        if isinstance(welcome, Welcome) and welcome.protocol == PROTOCOL_VERSION:
            return
        self.close()
        if not isinstance(welcome, Welcome):
            raise MachineError(f"no engine answers at {self.endpoint}")
        raise MachineError(
            f"the engine at {self.endpoint} speaks version {welcome.protocol} of the protocol, "
            f"this distill {PROTOCOL_VERSION}: end it and start it again from this installation"
        )

    def _send(self, message: Message) -> None:
        payload = CLIENT_TO_DRIVER.encode(message)  # type: ignore[arg-type]
        self._conversation.sent(message)
        self._sockets.send("engine", payload)

    def _receive(self, deadline_s: float) -> Message | None:
        if not self._inbox:
            self._inbox.extend(self._sockets.poll(deadline_s))
        if not self._inbox:
            return None
        message = CLIENT_TO_DRIVER.decode(self._inbox.popleft().payload, peer="engine")
        self._conversation.received(message)
        return message

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
        options |= budget.options if budget is not None else {}
        suffix = ".txt" if isinstance(context, str) else ".json"
        with tempfile.NamedTemporaryFile("w", suffix=suffix, encoding="utf-8") as file:
            file.write(context if isinstance(context, str) else json.dumps(context))
            file.flush()
            if not isinstance(context, str):
                options["json"] = True
            result, _ = self.ask(query, [file.name], supervisor, options, on_progress)
        return result

    def load_adapter(
        self, path: str | Path, name: str | None = None, *, model: str | None = None
    ) -> Served:
        """Load a LoRA adapter into every worker of ``model`` (the engine's own if None).

        Calls name it with ``worker(prompt, model=name)``, runs with ``adapter=name``. A name that
        is there gets a new version, which later calls are answered with; what is in flight ends
        on what it began with. ``path`` is a folder as the workers see it (made absolute here), one
        for each version: a worker that starts later loads it again. Raises InputError, ModelError.
        """
        ask = secrets.token_hex(8)
        name = name or Path(path).name
        where = Path(path).expanduser().absolute()
        self._send(wire.AddAdapter(ask, name, str(where), model))
        while True:
            message = self._receive(PATIENCE_S)
            if message is None:
                self._check_alive()
            elif isinstance(message, wire.AdapterAdded) and message.ask == ask:
                told = msgspec.structs.asdict(message)
                del told["ask"]
                return Served(told.pop("adapter"), **told)
            elif isinstance(message, wire.Failed) and message.ask == ask:
                raise _error(message)

    def ask(
        self,
        query: str,
        paths: list[str],
        supervisor: str | None,
        options: dict[str, Any],
        on_progress: Callable[[Progress], None] | None = None,
        on_status: Callable[[wire.EngineStatus], None] | None = None,
    ) -> tuple[RunResult, str]:
        """Put a question about files; the result and its summary. Raises what the run raised.

        ``on_status`` hears every STATUS_EVERY_S how the engine's workers do.
        """
        ask = secrets.token_hex(8)
        absolute = tuple(str(Path(path).resolve()) for path in paths)
        self._send(wire.Ask(ask, query, absolute, supervisor, options))
        try:
            return self._wait(ask, on_progress, on_status)
        except KeyboardInterrupt:
            self._send(wire.Stop(ask))
            raise

    def status(self) -> wire.EngineStatus:
        """How the engine, its workers and its runs are now. Raises MachineError: no answer."""
        self._send(wire.Inspect())
        deadline_s = time.monotonic() + GREETING_S
        while (left_s := deadline_s - time.monotonic()) > 0:
            message = self._receive(left_s)
            if isinstance(message, wire.EngineStatus):
                return message
        raise MachineError(f"the engine at {self.endpoint} does not say how it is")

    def _wait(
        self,
        ask: str,
        on_progress: Callable[[Progress], None] | None,
        on_status: Callable[[wire.EngineStatus], None] | None,
    ) -> tuple[RunResult, str]:
        looked_s = -math.inf
        while True:
            if on_status is not None and time.monotonic() - looked_s > STATUS_EVERY_S:
                looked_s = time.monotonic()
                self._send(wire.Inspect())
            message = self._receive(PATIENCE_S)
            if message is None:
                self._check_alive()
            elif isinstance(message, wire.EngineStatus) and on_status is not None:
                on_status(message)
            elif isinstance(message, wire.Progress) and message.ask == ask:
                if on_progress is not None:
                    on_progress(_progress(message))
            elif isinstance(message, wire.Answer) and message.ask == ask:
                result = msgspec.convert(message.result, RunResult, dec_hook=_path)
                return result, message.summary
            elif isinstance(message, wire.Failed) and message.ask == ask:
                raise _error(message)

    def _check_alive(self) -> None:
        socket_path = Path(self.endpoint.removeprefix("ipc://"))
        if not socket_path.exists():
            raise MachineError(
                "the engine has ended; what was done so far is in the run's log folder. "
                "Start it again with bin/distill-up"
            )

    def close(self) -> None:
        """Leave; a question that is open is cancelled."""
        self._sockets.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


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
