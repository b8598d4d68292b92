"""One keeper process, from its start to its end, and the jail behind it.

It routes and keeps the conversation's state; what a jail's messages mean is its listener's
business (``distill.supervisor.sandboxes``).
"""

import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import Callable
from typing import Protocol

from distill.errors import SandboxError
from distill.protocol import PROTOCOL_VERSION
from distill.protocol import sandbox_link as wire
from distill.protocol.codec import DRIVER_TO_KEEPER
from distill.protocol.conversation import Conversation
from distill.protocol.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from distill.protocol.launcher_link import (
    BoundJail,
    Exited,
    FromLauncher,
    JailContext,
    Kill,
    NotStarted,
    Spawn,
    SpawnJail,
    Started,
)
from distill.protocol.message import LogRecords, Message, Shutdown, Welcome
from distill.protocol.sockets import Inbound
from distill.supervisor.children import last_words, minimal_environment
from distill.supervisor.context import ContextFile
from distill.supervisor.driver import Driver
from distill.traces import records

SHUTDOWN_S = 2.0
"""How long a keeper has to end when it is told to."""

_numbers = itertools.count(1)


class Listener(Protocol):
    """Whose jail it is: hears what the jail says, and when the keeper is gone."""

    def on_jail_message(self, message: wire.FromKeeper, before: str) -> None:
        """The jail said this; ``before`` is the conversation's state until then."""

    def on_keeper_gone(self, why: str, before: str) -> None:
        """The keeper is of no use any more, whatever its jail was doing."""


class KeeperProcess:
    """A keeper and at most one jail at a time. All methods are called on the driver's loop.

    Its first jail is started as soon as the keeper has said how, and waits for its contents.
    ``state`` is the conversation's (``wire.TRANSITIONS``), "gone" at the end; ``failure`` says
    why it, or its last jail, is gone; ``refusal`` why no jail can be built here. ``packages``
    are the names of installed distributions that its jails hold, ``tier`` is how they are to be
    confined.
    """

    def __init__(
        self,
        driver: Driver,
        listener: Listener,
        packages: tuple[str, ...] = (),
        tier: wire.Wanted = "auto",
    ) -> None:
        # A name of its own: an identity on the socket must not meet an older keeper's.
        self.name = f"sandbox-{next(_numbers)}"
        self.producer = records.Producer("sandbox", self.name, 0)
        self.plan: wire.JailPlan | None = None
        self.packages = packages
        self.tier = tier
        self.jail = ""
        self._jail_waits = False
        self.failure: str | None = None
        self.refusal: str | None = None
        self.listener = listener
        self._driver = driver
        self._log = driver.run_directory / f"{self.name}.log"
        self._conversation = Conversation(wire.TRANSITIONS, peer=self.name)
        self._changed = asyncio.Event()
        self._jails = itertools.count(1)
        _open[self.name] = self
        driver.on_zone("sandboxes", _route)
        driver.on_lost(self._on_driver_lost)
        driver.on_child(self.name, self._on_child)
        driver.children.send(self._spawn())

    def _spawn(self) -> Spawn:
        argv = (
            # One that crashes says where: faulthandler's words are the last of its log.
            *(sys.executable, "-X", "faulthandler", "-m", "distill.sandbox.keeper"),
            *("--connect", self._driver.endpoints["sandboxes"], "--keeper", self.name),
            *("--control-fd", "{control_fd}"),
            *("--sandbox", self.tier),
            *(word for name in self.packages for word in ("--package", name)),
        )
        return Spawn(self.name, argv, minimal_environment(), str(self._log), control=True)

    @property
    def state(self) -> str:
        """Where the conversation stands."""
        return self._conversation.state

    def allows(self, kind: type[Message]) -> bool:
        """Whether this message may be sent now."""
        return self._conversation.allows(kind)

    async def until(self, condition: Callable[[], bool], deadline_s: float) -> None:
        """Wait for a change that makes the condition true. Raises SandboxError, and ends it."""
        due = time.monotonic() + deadline_s
        while not condition():
            self._changed.clear()
            try:
                async with asyncio.timeout(max(due - time.monotonic(), 0)):
                    await self._changed.wait()
            except TimeoutError:
                state = self.state
                self.end()
                raise SandboxError(
                    f"the sandbox was still {state!r} after {deadline_s:.0f} s"
                ) from None

    # -- what its owner tells it

    def send(self, message: Message) -> None:
        """Send one message. Raises LocalProtocolError for one that can't be sent (now)."""
        payload = DRIVER_TO_KEEPER.encode(message)  # type: ignore[arg-type]
        self._conversation.sent(message)
        self._driver.send("sandboxes", self.name, payload)

    def open_jail(
        self, opening: Callable[[str], wire.OpenJail], context: ContextFile | None
    ) -> None:
        """Say what is in the jail that waits, or in a new one. Raises SandboxError if it can't."""
        if not self._jail_waits:
            self._start_jail()
        self._jail_waits = False
        message = opening(self.jail)
        limits = message.limits
        memory_bytes = limits.memory_bytes + limits.scratch_bytes
        self._driver.children.send(BoundJail(self.jail, memory_bytes, limits.threads))
        if context is not None:
            self._driver.children.send(JailContext(self.jail), context.fileno())
        try:
            self.send(message)
        except LocalProtocolError as error:
            self._driver.children.send(Kill(self.jail))
            raise SandboxError(f"the namespace can't be sent into the jail: {error}") from error

    def _start_jail(self) -> None:
        assert self.plan is not None
        self.jail = f"{self.name}-jail-{next(self._jails)}"
        self._jail_waits = True
        self._driver.on_child(self.jail, self._on_jail_child)
        self._driver.children.send(SpawnJail(self.jail, self.name, self.plan))

    def close_jail(self) -> None:
        """Have the jail killed, if there is one."""
        if self.allows(wire.CloseJail):
            self.send(wire.CloseJail(self.jail))

    def kill(self) -> None:
        """End it at once: it does not answer, or breaks rules."""
        self._driver.children.send(Kill(self.name))
        self._conversation.state = "gone"
        self._changed.set()

    def end(self) -> None:
        """Tell it to end, and kill it if it does not; nothing it says is heard any more."""
        if self.allows(Shutdown):
            self.send(Shutdown())
            kill = Kill(self.name)
            self._driver.loop.call_later(SHUTDOWN_S, self._driver.children.send, kill)
        elif self.state != "gone":
            self.kill()
        _open.pop(self.name, None)
        self._driver.off_lost(self._on_driver_lost)

    # -- what it hears

    def on_inbound(self, inbound: Inbound) -> None:
        """One message of this keeper; a broken rule costs it its life."""
        if inbound.event == "unreachable":
            return
        try:
            if inbound.event == "malformed":
                raise RemoteProtocolError("a message of several frames", peer=self.name)
            message = DRIVER_TO_KEEPER.decode(inbound.payload, peer=self.name)
            if self.state == "gone":
                return
            before = self.state
            self._conversation.received(message)
            self._act(message, before)
        except ProtocolError as error:
            self._driver.event("keeper_protocol_error", self.producer, why=str(error))
            self._driver.children.send(Kill(self.name))
        finally:
            self._changed.set()

    def _act(self, message: wire.FromKeeper, before: str) -> None:
        match message:
            case wire.KeeperHello():
                self._on_hello(message)
            case LogRecords():
                self._driver.shipped(self.producer, message.records)
            case wire.JailReady():
                self.failure = None
                self._driver.event(
                    "jail_ready",
                    self.producer,
                    jail=message.jail,
                    start_s=message.start_s,
                    context=message.context,
                )
            case wire.JailLost():
                self.failure = f"the jail was lost: {message.detail}"
                self._driver.event(
                    "jail_lost",
                    self.producer,
                    jail=message.jail,
                    cause=message.cause,
                    why=message.detail,
                )
                self.listener.on_jail_message(message, before)
            case _:
                self.listener.on_jail_message(message, before)

    def _on_hello(self, hello: wire.KeeperHello) -> None:
        if hello.protocol != PROTOCOL_VERSION:
            raise RemoteProtocolError(f"speaks protocol {hello.protocol}", peer=self.name)
        self.producer = records.Producer("sandbox", self.name, hello.pid)
        if hello.plan is None:
            refusal = hello.refusal or wire.NoJail((), "")
            tried = "; ".join(refusal.tried)
            self.refusal = f"no safe jail can be built here: {tried}. {refusal.remedy}"
            self.end()
            return
        self.plan = hello.plan
        self._driver.event(
            "sandbox_started", self.producer, tier=hello.plan.tier, notes=list(hello.plan.notes)
        )
        self.send(Welcome(PROTOCOL_VERSION, 1.0))
        self._start_jail()

    def _on_child(self, message: FromLauncher) -> None:
        if not isinstance(message, Started):
            self._on_end(message)
            self._driver.forget(self.name)

    def _on_end(self, message: FromLauncher) -> None:
        if isinstance(message, NotStarted):
            self._gone(f"the keeper could not be started: {message.detail}")
        elif isinstance(message, Exited):
            words = last_words(self._log)
            self._gone(f"its keeper died (status {message.status}). {words}".rstrip(". "))
            with contextlib.suppress(OSError):
                # Each run of a resident engine has a keeper; most have said nothing.
                if not self._log.stat().st_size:
                    self._log.unlink()

    def _on_jail_child(self, message: FromLauncher) -> None:
        """Of a jail that waits nobody else hears; its keeper has no use for another."""
        waits = self._jail_waits and message.child == self.jail and self.state != "gone"
        if isinstance(message, Started) or not waits:
            return
        why = message.detail if isinstance(message, NotStarted) else f"status {message.status}"
        before = self.state
        self.end()
        self._conversation.state = "gone"  # told once: not again when the process has ended
        self._told_gone(f"its jail ended before it was used ({why})", before)
        self._changed.set()

    def _on_driver_lost(self) -> None:
        self._gone("the launcher died, and the sandbox with it")

    def _gone(self, why: str) -> None:
        before = self.state
        self._conversation.state = "gone"
        _open.pop(self.name, None)
        self._driver.off_lost(self._on_driver_lost)
        if before != "gone":
            self._told_gone(why, before)
        self._changed.set()

    def _told_gone(self, why: str, before: str) -> None:
        self.failure = why
        self.listener.on_keeper_gone(why, before)


_open: dict[str, KeeperProcess] = {}


def _route(batch: list[Inbound]) -> None:
    for inbound in batch:
        keeper = _open.get(inbound.peer.decode("utf-8", "replace"))
        if keeper is not None:
            keeper.on_inbound(inbound)
