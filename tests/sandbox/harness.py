"""A driver of the tests' own: the real launcher, the real keeper, real jails, plain calls.

``Host`` speaks the driver's side of both links, one message at a time, so that a test can see
each of them, and send what the real driver never would.
"""

import contextlib
import os
import queue
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from distill.protocol import PROTOCOL_VERSION
from distill.protocol.codec import DRIVER_TO_KEEPER, DRIVER_TO_LAUNCHER
from distill.protocol.conversation import Conversation
from distill.protocol.jail_link import CallError, ContextKind, Limits, RunCell
from distill.protocol.launcher_link import (
    PACKET_LIMIT_BYTES,
    FromLauncher,
    JailContext,
    Kill,
    Spawn,
    SpawnJail,
)
from distill.protocol.message import LogRecords, Message, Shutdown, Welcome
from distill.protocol.sandbox_link import (
    FRAME_LIMIT_BYTES,
    TRANSITIONS,
    CallReply,
    CellDone,
    CloseJail,
    FinalAnswer,
    FromKeeper,
    HostCall,
    JailLost,
    JailReady,
    KeeperHello,
    OpenJail,
    ToKeeper,
)
from distill.protocol.sockets import Inbound
from distill.supervisor.context import ContextFile
from tests.protocol.socket_thread import SocketThread

KEEPER = "keeper-1"
WAIT_S = 20.0
Kind = TypeVar("Kind", bound=Message)
Function = Callable[..., Any]


class Host:
    """Launcher and keeper, up until ``close``; at most one jail at a time.

    ``sandbox`` is the tier that is wanted; ``under`` a command that the launcher, and so all that
    it starts, is run by; ``keeper`` what Python is to run as the keeper.
    """

    def __init__(
        self,
        folder: Path,
        sandbox: str = "auto",
        under: tuple[str, ...] = (),
        keeper: tuple[str, ...] = ("-m", "distill.sandbox.keeper"),
    ) -> None:
        self.folder = folder
        self._keeper = keeper
        self._sandbox = sandbox
        self._under = under
        self._inbox: queue.SimpleQueue[Inbound] = queue.SimpleQueue()
        self._jails = self._cells = 0
        self._spent_s = 0.0
        self._talk = Conversation(TRANSITIONS, peer=KEEPER)
        self.log: list[dict[str, Any]] = []
        self.functions: dict[str, Function] = {}
        self.finals: list[Any] = []
        self.jail = ""
        self.launcher_events: list[FromLauncher] = []
        self._start_launcher()
        self._sockets = SocketThread(self._on_batch)
        endpoint = self._sockets.bind(
            "sandboxes", f"ipc://{folder}/k.sock", limit_bytes=FRAME_LIMIT_BYTES
        )
        self._sockets.start()
        for path in (folder, folder / "k.sock", folder / "run") if under else ():
            path.chmod(0o777)  # another user may run them
        self._spawn_keeper(endpoint)
        hello = self.expect(KeeperHello)
        self.keeper_pid = hello.pid
        assert hello.plan is not None, hello.refusal
        self.plan = hello.plan
        self.send(Welcome(PROTOCOL_VERSION, 5.0))

    def _start_launcher(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        run = self.folder / "run"
        run.mkdir()
        with theirs:
            self.launcher = subprocess.Popen(
                [
                    *self._under,
                    *(sys.executable, "-m", "distill.supervisor.launcher"),
                    *("--pipe-fd", str(theirs.fileno()), "--driver-pid", str(os.getpid())),
                    *("--run-directory", str(run)),
                ],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.pipe = ours
        self.pipe.setblocking(False)

    def _spawn_keeper(self, endpoint: str) -> None:
        argv = (
            *(sys.executable, *self._keeper, "--connect", endpoint),
            *("--keeper", KEEPER, "--control-fd", "{control_fd}", "--sandbox", self._sandbox),
        )
        # A keeper of the tests' own is a module of theirs.
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        output = str(self.folder / "keeper.log")
        self.tell_launcher(Spawn(KEEPER, argv, env, output, control=True))

    def tell_launcher(
        self, message: Spawn | SpawnJail | JailContext | Kill, *attached: int
    ) -> None:
        # A pipe that nobody reads would block the launcher.
        with contextlib.suppress(BlockingIOError):
            while packet := self.pipe.recv(PACKET_LIMIT_BYTES):
                self.launcher_events.append(DRIVER_TO_LAUNCHER.decode(packet))
        socket.send_fds(self.pipe, [DRIVER_TO_LAUNCHER.encode(message)], attached)

    def _on_batch(self, batch: list[Inbound]) -> None:
        for inbound in batch:
            self._inbox.put(inbound)

    def send(self, message: ToKeeper) -> None:
        self._talk.sent(message)
        self._sockets.send(
            "sandboxes",
            DRIVER_TO_KEEPER.encode(message),
            peer=KEEPER.encode(),
        )

    def receive(self, timeout_s: float = WAIT_S) -> FromKeeper:
        """The next message that is no log record. Raises queue.Empty."""
        deadline = time.monotonic() + timeout_s
        while True:
            inbound = self._inbox.get(timeout=max(0.0, deadline - time.monotonic()))
            message = DRIVER_TO_KEEPER.decode(inbound.payload)
            self._talk.received(message)
            if not isinstance(message, LogRecords):
                return message
            self.log += message.records

    def expect(self, kind: type[Kind], timeout_s: float = WAIT_S) -> Kind:
        message = self.receive(timeout_s)
        assert isinstance(message, kind), message
        return message

    # -- a jail

    def open(
        self,
        limits: Limits | None = None,
        context: str | list[Any] | dict[str, Any] | ContextFile | None = None,
        functions: dict[str, Function] | None = None,
        namespace: dict[str, Any] | None = None,
    ) -> JailReady | JailLost:
        """Replace the jail by a fresh one; JailReady, or JailLost if it did not start."""
        self.close_jail()
        self._jails += 1
        self._cells = 0
        self._spent_s = 0.0
        self.finals = []
        self.functions = {"FINAL": lambda value: None, **(functions or {})}
        self.jail = f"jail-{self._jails}"
        self.tell_launcher(SpawnJail(self.jail, KEEPER, self.plan))
        kind: ContextKind = "none"
        context_bytes = 0
        if context is not None:
            file = context if isinstance(context, ContextFile) else ContextFile(context)
            self.tell_launcher(JailContext(self.jail), file.fileno())
            kind, context_bytes = file.kind, file.size_bytes
            if file is not context:
                file.close()
        names = tuple(self.functions)
        self.send(
            OpenJail(self.jail, limits or Limits(), namespace or {}, names, kind, context_bytes)
        )
        message = self.receive()
        assert isinstance(message, JailReady | JailLost), message
        return message

    @property
    def idle(self) -> bool:
        return self._talk.state == "idle"

    def close_jail(self) -> None:
        if self._talk.state in ("idle", "running", "opening"):
            self.send(CloseJail(self.jail))
            while not isinstance(self.receive(), JailLost):
                pass

    def start(self, code: str) -> int:
        self._cells += 1
        self.send(RunCell(self._cells, code, self._spent_s))
        return self._cells

    def run(self, code: str, timeout_s: float = WAIT_S) -> CellDone | JailLost:
        """Run a cell to its end, answering its calls with ``functions``."""
        self.start(code)
        return self.finish(timeout_s)

    def finish(self, timeout_s: float = WAIT_S) -> CellDone | JailLost:
        deadline = time.monotonic() + timeout_s
        while True:
            message = self.receive(deadline - time.monotonic())
            match message:
                case HostCall():
                    self.answer(message)
                case FinalAnswer():
                    self.finals.append(message.value)
                    self.send(CallReply(message.jail, message.call))
                case CellDone() | JailLost():
                    self._spent_s += message.spent_s
                    return message
                case _:
                    raise AssertionError(message)

    def answer(self, call: HostCall) -> None:
        try:
            value = self.functions[call.function](*call.args, **call.kwargs)
        except Refusal as refusal:
            self.send(CallReply(call.jail, call.call, error=refusal.error))
        else:
            self.send(CallReply(call.jail, call.call, value=value))

    def done(self, code: str, timeout_s: float = WAIT_S) -> CellDone:
        """Run a cell that must end by itself."""
        outcome = self.run(code, timeout_s)
        assert isinstance(outcome, CellDone), outcome
        return outcome

    def printed(self, code: str, timeout_s: float = WAIT_S) -> str:
        """What a cell printed that must end without an error."""
        done = self.done(code, timeout_s)
        assert done.error is None, done.error.traceback
        return done.stdout

    def lost(self, code: str, timeout_s: float = WAIT_S) -> JailLost:
        """Run a cell that must cost the jail its life."""
        outcome = self.run(code, timeout_s)
        assert isinstance(outcome, JailLost), outcome
        return outcome

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.send(Shutdown())
        self._sockets.close()
        self.pipe.close()
        try:
            self.launcher.wait(WAIT_S)
        finally:
            self.launcher.kill()
            self.launcher.wait()


class Refusal(Exception):
    """Raised by a test's host function: reply with this error."""

    def __init__(self, error: CallError) -> None:
        super().__init__(error.detail)
        self.error = error
