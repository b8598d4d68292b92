"""The host's end of one sandbox: a keeper process, and one jail at a time behind it.

What the jail says arrives here already parsed by the keeper. It is still the word of a
hostile program: the answer, the record of calls and the state of the conversation are kept
on this side, and a lie harms the liar's own namespace only.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distill.errors import SandboxError
from distill.protocol import PROTOCOL_VERSION
from distill.protocol import sandbox_link as wire
from distill.protocol.codec import DRIVER_TO_KEEPER
from distill.protocol.conversation import Conversation
from distill.protocol.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from distill.protocol.jail_link import CallError, CellError, Limits, RunCell, Variable
from distill.protocol.launcher_link import Exited, FromLauncher, Kill, NotStarted, Spawn, SpawnJail
from distill.protocol.message import LogRecords, Message, Shutdown, Welcome
from distill.protocol.sockets import Inbound
from distill.supervisor.children import minimal_environment
from distill.supervisor.driver import Driver, in_thread
from distill.supervisor.host_calls import CURRENT_CALL, HostCallRecord, call_error, is_json
from distill.traces import records

START_DEADLINE_S = 60.0
CONTEXT_BYTES_PER_S = 10 << 20
"""Beside it: how slowly a context may come into the jail."""
AFTER_FINAL_S = 5.0
"""How long a cell may go on once it has called FINAL: the answer stands."""
KEEPER_STARTS_LIMIT = 3
KEEPER_SLACK_S = 15.0
"""Beyond a cell's own limits, before a silent keeper is taken for frozen."""
SHUTDOWN_S = 2.0
"""How long a keeper has to end when it is told to."""

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a jail is filled with. ``path`` is a file with the context's bytes, or None."""

    namespace: Mapping[str, Any]
    functions: Mapping[str, Callable[..., Any]]
    kind: Literal["text", "json", "none"] = "none"
    path: Path | None = None
    size_bytes: int = 0
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """What came of a cell. ``lost`` says how the jail died, and then the namespace is new."""

    cell: int
    stdout: str
    stderr: str
    elapsed_s: float
    cpu_s: float
    error: CellError | None = None
    lost: str | None = None
    variables: tuple[Variable, ...] = ()
    dropped_bytes: int = 0
    interrupted: bool = False
    live_threads: int = 0


class Sandbox:
    """One keeper and its jail. All methods are called on the driver's loop.

    ``on_final(cell, value)`` is called once, before the jail hears that its FINAL was
    recorded; ``on_call(record)`` after every host call.
    """

    def __init__(
        self,
        driver: Driver,
        contents: Contents,
        *,
        on_final: Callable[[int, Any], None],
        on_call: Callable[[HostCallRecord], None],
    ) -> None:
        self._driver = driver
        self._contents = contents
        self._on_final = on_final
        self._on_call = on_call
        self.name = ""
        self.producer = records.Producer("sandbox", self.name, 0)
        self.plan: wire.JailPlan | None = None
        self._conversation = Conversation(wire.TRANSITIONS, peer=self.name, start="gone")
        self._changed = asyncio.Event()
        self._jails = itertools.count(1)
        self._jail = ""
        self._cell = 0
        self._outcome: CellOutcome | None = None
        self._has_final = False
        self._final_s: float | None = None
        self._failure: str | None = None
        self._refusal: str | None = None
        self._state_before = ""
        self._lost_between: str | None = None
        self._is_closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        driver.on_zone("sandboxes", _route)
        driver.on_lost(self._on_driver_lost)

    # -- what callers see

    async def start(self) -> None:
        """Make a jail ready. Raises SandboxError if none can be built or started."""
        for _ in range(KEEPER_STARTS_LIMIT):
            if self._is_closed:
                raise SandboxError("the sandbox was closed")
            if self._driver.lost.is_set():
                break
            if self._conversation.state == "gone":
                self._start_keeper()
            # "running" here: the jail was told to go, and has not gone yet.
            await self._until(lambda: self._conversation.state not in ("new", "greeted", "running"))
            if self._refusal is not None:
                raise SandboxError(self._refusal)
            if self._conversation.state == "empty":
                self._open_jail()
            await self._until(lambda: self._conversation.state not in ("opening", "empty"))
            if self._conversation.state == "idle":
                return
        raise SandboxError(self._failure or "the sandbox did not start")

    async def execute(self, code: str) -> CellOutcome:
        """Run one cell to its end, whatever end that is. Raises SandboxError: none can run."""
        if self._conversation.state != "idle":
            await self.start()
        self._cell += 1
        self._outcome = self._final_s = None
        started_s = time.monotonic()
        if self._lost_between is not None:
            # The names that this cell counts on are gone: better told than run.
            self._lose(f"not run: the jail had died before it ({self._lost_between})", started_s)
            self._lost_between = None
        else:
            self._run(code)
        while self._outcome is None:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), self._patience_s())
            except TimeoutError:
                self._give_up(started_s)
        return self._outcome

    def _run(self, code: str) -> None:
        try:
            self._send(RunCell(self._cell, code))
        except LocalProtocolError as error:
            raise SandboxError(f"the cell can't be sent: {error}") from error

    def _patience_s(self) -> float:
        """How long the keeper may say nothing; it enforces the limits, this only doubts it."""
        if self._final_s is not None:
            return max(0.0, self._final_s + AFTER_FINAL_S - time.monotonic())
        limits = self._contents.limits
        return limits.cell_s + limits.grace_s + KEEPER_SLACK_S

    def _give_up(self, started_s: float) -> None:
        """Nothing came in time: the cell goes on after FINAL, or the keeper is frozen."""
        if self._final_s is not None:
            self._lose("it went on after FINAL and was killed", started_s)
            self._close_jail()
        elif not self._tasks:
            self._lose("its keeper is frozen and was killed", started_s)
            self._driver.children.send(Kill(self.name))
            self._conversation.state = "gone"

    async def close(self) -> None:
        """End the keeper and the jail."""
        self._is_closed = True
        for task in list(self._tasks):
            task.cancel()
        if self._outcome is None:
            self._lose("the sandbox was closed", None)
            self._changed.set()
        self._end_keeper()
        _open.pop(self.name, None)
        self._driver.off_lost(self._on_driver_lost)

    # -- processes

    def _start_keeper(self) -> None:
        # A new keeper has a new name: its identity on the socket must not meet the old one's.
        _open.pop(self.name, None)
        self.name = f"sandbox-{next(_numbers)}"
        _open[self.name] = self
        self._conversation = Conversation(wire.TRANSITIONS, peer=self.name)
        argv = (
            *(sys.executable, "-m", "distill.sandbox.keeper"),
            *("--connect", self._driver.endpoints["sandboxes"], "--keeper", self.name),
            *("--control-fd", "{control_fd}"),
        )
        output = str(self._driver.run_directory / f"{self.name}.log")
        name = self.name
        self._driver.on_child(name, lambda message: self._on_keeper_child(name, message))
        self._driver.children.send(
            Spawn(self.name, argv, minimal_environment(), output, control=True)
        )

    def _end_keeper(self) -> None:
        name = self.name
        if self._conversation.allows(Shutdown):
            self._send(Shutdown())
            kill = Kill(name)
            self._driver.loop.call_later(SHUTDOWN_S, self._driver.children.send, kill)
        elif self._conversation.state != "gone":
            self._driver.children.send(Kill(name))

    def _on_keeper_child(self, name: str, message: FromLauncher) -> None:
        if name != self.name:
            return
        if isinstance(message, NotStarted):
            self._failure = f"the keeper could not be started: {message.detail}"
        elif isinstance(message, Exited):
            self._failure = f"the keeper ended with status {message.status}"
        else:
            return
        if self._conversation.state == "running":
            self._lose(f"its keeper died (status {getattr(message, 'status', None)})", None)
        self._conversation.state = "gone"
        self._changed.set()

    def _on_driver_lost(self) -> None:
        self._failure = "the launcher died, and the sandbox with it"
        if self._conversation.state == "running":
            self._lose("the launcher died, and the sandbox with it", None)
        self._conversation.state = "gone"
        self._changed.set()

    def _open_jail(self) -> None:
        assert self.plan is not None
        contents = self._contents
        self._jail = f"{self.name}-jail-{next(self._jails)}"
        self._driver.children.send(
            SpawnJail(self._jail, self.name, self.plan, str(contents.path or ""))
        )
        opening = wire.OpenJail(
            self._jail,
            contents.limits,
            dict(contents.namespace),
            ("FINAL", *contents.functions),
            contents.kind,
            contents.size_bytes,
        )
        try:
            self._send(opening)
        except LocalProtocolError as error:
            self._driver.children.send(Kill(self._jail))
            raise SandboxError(f"the namespace can't be sent into the jail: {error}") from error

    def _close_jail(self) -> None:
        if self._conversation.allows(wire.CloseJail):
            self._send(wire.CloseJail(self._jail))

    async def _until(self, condition: Callable[[], bool]) -> None:
        allowed_s = START_DEADLINE_S + self._contents.size_bytes / CONTEXT_BYTES_PER_S
        deadline = time.monotonic() + allowed_s
        while not condition():
            self._changed.clear()
            left_s = deadline - time.monotonic()
            try:
                await asyncio.wait_for(self._changed.wait(), max(left_s, 0))
            except TimeoutError:
                self._end_keeper()
                state = self._conversation.state
                raise SandboxError(
                    f"the sandbox was still {state!r} after {allowed_s:.0f} s"
                ) from None

    # -- messages

    def _send(self, message: Message) -> None:
        payload = DRIVER_TO_KEEPER.encode(message)  # type: ignore[arg-type]
        self._conversation.sent(message)
        self._driver.send("sandboxes", self.name, payload)

    def on_inbound(self, inbound: Inbound) -> None:
        """One message of this keeper; a broken rule costs it its life."""
        if inbound.event == "unreachable":
            return
        try:
            if inbound.event == "malformed":
                raise RemoteProtocolError("a message of several frames", peer=self.name)
            message = DRIVER_TO_KEEPER.decode(inbound.payload, peer=self.name)
            if self._conversation.state == "gone":
                return
            self._state_before = self._conversation.state
            self._conversation.received(message)
            self._act(message)
        except ProtocolError as error:
            self._driver.event("keeper_protocol_error", self.producer, why=str(error))
            self._driver.children.send(Kill(self.name))
        finally:
            self._changed.set()

    def _act(self, message: wire.FromKeeper) -> None:
        match message:
            case wire.KeeperHello():
                self._on_hello(message)
            case wire.JailReady():
                self._failure = None
                self._driver.event(
                    "jail_ready", self.producer, jail=message.jail, start_s=message.start_s
                )
            case wire.JailLost():
                self._on_jail_lost(message)
            case wire.CellDone():
                self._on_cell_done(message)
            case wire.HostCall():
                self._spawn(self._answer(message))
            case wire.FinalAnswer():
                self._on_final_answer(message)
            case LogRecords():
                self._driver.shipped(self.producer, message.records)

    def _on_hello(self, hello: wire.KeeperHello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            raise RemoteProtocolError(f"speaks protocol {hello.protocol}", peer=self.name)
        self.producer = records.Producer("sandbox", self.name, hello.pid)
        if hello.plan is None:
            refusal = hello.refusal or wire.NoJail((), "")
            self._end_keeper()
            tried = "; ".join(refusal.tried)
            self._refusal = f"no safe jail can be built here: {tried}. {refusal.remedy}"
            return
        self.plan = hello.plan
        self._driver.event(
            "sandbox_started", self.producer, tier=hello.plan.tier, notes=list(hello.plan.notes)
        )
        self._send(Welcome(PROTOCOL_VERSION, 1.0))

    def _on_jail_lost(self, lost: wire.JailLost) -> None:
        self._driver.event(
            "jail_lost", self.producer, jail=lost.jail, cause=lost.cause, why=lost.detail
        )
        self._failure = f"the jail was lost: {lost.detail}"
        if self._state_before == "idle" and self._cell:
            self._lost_between = lost.detail
        elif self._state_before == "running":
            # Also where the cell crossed this message on its way: then it never ran.
            self._outcome = CellOutcome(
                self._cell, lost.stdout, lost.stderr, lost.elapsed_s, lost.cpu_s, lost=lost.detail
            )

    def _on_cell_done(self, done: wire.CellDone) -> None:
        if self._outcome is None:
            self._outcome = CellOutcome(
                done.cell,
                done.stdout,
                done.stderr,
                done.elapsed_s,
                done.cpu_s,
                error=done.error,
                variables=done.variables,
                dropped_bytes=done.dropped_bytes,
                interrupted=done.interrupted,
                live_threads=done.live_threads,
            )

    def _lose(self, why: str, started_s: float | None) -> None:
        elapsed_s = 0.0 if started_s is None else time.monotonic() - started_s
        self._outcome = CellOutcome(self._cell, "", "", elapsed_s, 0.0, lost=why)

    # -- host calls

    def _spawn(self, work: Any) -> None:
        task = self._driver.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, call: wire.HostCall) -> None:
        """Run the function with its hostile arguments, and reply whatever came of it."""
        record = HostCallRecord(call.cell, call.call, call.function, call.args, call.kwargs, 0.0)
        started_s = time.monotonic()
        function = self._contents.functions.get(call.function)
        CURRENT_CALL.set((call.cell, call.call))
        try:
            record.value = await self._call(function, call)
            reply = wire.CallReply(call.jail, call.call, value=record.value)
            DRIVER_TO_KEEPER.encode(reply)
        except Exception as error:  # noqa: BLE001  (a primitive's failure is the cell's to see)
            record.value, record.error = None, f"{type(error).__name__}: {error}"
            reply = wire.CallReply(call.jail, call.call, error=call_error(error))
        record.elapsed_s = time.monotonic() - started_s
        try:
            self._on_call(record)
        except Exception as error:  # noqa: BLE001  (a full disk: the cell must not wait for ever)
            reply = wire.CallReply(call.jail, call.call, error=call_error(error))
        if call.jail == self._jail and self._conversation.allows(wire.CallReply):
            self._send(reply)

    async def _call(self, function: Callable[..., Any] | None, call: wire.HostCall) -> Any:
        """The function's value. Raises what it raised, and for what JSON can't hold."""
        if function is None:
            raise LookupError(f"there is no function {call.function!r}")
        if not is_json([call.args, call.kwargs]):
            raise TypeError("the arguments are no JSON values")
        value = await in_thread(self._driver, lambda: function(*call.args, **call.kwargs))
        if not is_json(value):
            raise TypeError(
                f"{call.function} returned a {type(value).__name__} that JSON can't hold"
            )
        return value

    def _on_final_answer(self, final: wire.FinalAnswer) -> None:
        error = None
        if not is_json(final.value):
            error = CallError("FinalError", "FINAL takes JSON-like values only")
        else:
            self._final_s = self._final_s or time.monotonic()
            try:
                if not self._has_final:
                    self._on_final(final.cell, final.value)
                    self._has_final = True
            except OSError as failure:
                error = CallError("FinalError", f"the answer can't be logged: {failure}")
        self._send(wire.CallReply(final.jail, final.call, error=error))


_open: dict[str, Sandbox] = {}


def _route(batch: list[Inbound]) -> None:
    for inbound in batch:
        sandbox = _open.get(inbound.peer.decode("utf-8", "replace"))
        if sandbox is not None:
            sandbox.on_inbound(inbound)
