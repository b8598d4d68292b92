"""One jail as the keeper sees it: what it may say next, what it has used, how it ends.

::

    opening ── Ready ──► idle ── RunCell ──► running ── Done ──► idle
       └──────────────────┴──────────────────────┴── ending ──► lost, told exactly once

A jail ends in one way only: the launcher says that its process is reaped. Whatever the keeper
had against it before (a broken rule, a deadline) is the verdict, and is told then.
"""

import socket
import time
from collections.abc import Callable
from typing import Literal

from distill.protocol.codec import KEEPER_TO_JAIL
from distill.protocol.conversation import Conversation
from distill.protocol.errors import LocalProtocolError, RemoteProtocolError
from distill.protocol.jail_link import (
    TRANSITIONS,
    Call,
    CallError,
    Done,
    Final,
    Init,
    Limits,
    Output,
    Ready,
    Reply,
    RunCell,
    ToJail,
)
from distill.protocol.sandbox_link import (
    CallReply,
    FinalAnswer,
    FromKeeper,
    HostCall,
    JailLost,
    JailReady,
    OpenJail,
)
from distill.sandbox.calls import Calls
from distill.sandbox.cell import Cell, Pause
from distill.sandbox.frames import FrameSocket
from distill.sandbox.intake import Heard, admit
from distill.sandbox.verdict import Cause, Verdict, death

START_S = 20.0
"""For a start, the context's reading not counted."""
CONTEXT_BYTES_PER_S = 10e6
FAREWELL_S = 1.0
"""A jail whose socket has ended must be dead by then."""
UNHEARD_S = 5.0
"""A killed jail of which the launcher has said nothing at all is taken as never started."""


class Session:
    """A jail from OpenJail to JailLost. ``send`` goes to the driver, ``kill`` to the launcher."""

    def __init__(
        self,
        opening: OpenJail,
        send: Callable[[FromKeeper], None],
        signal_jail: Callable[[Literal["INT", "KILL"]], None],
        context_fd: int,
        *,
        is_filtered: bool,
    ) -> None:
        self.jail = opening.jail
        self.limits: Limits = opening.limits
        self._opening = opening
        self._send = send
        self._signal = signal_jail
        self._context_fd = context_fd
        self._is_filtered = is_filtered
        self._talk = Conversation(TRANSITIONS, peer="jail")
        self._started_s = time.monotonic()
        self._pid = 0
        self.socket: FrameSocket | None = None
        self.verdict: Verdict | None = None
        self.over = False
        self._ended_s = 0.0
        self._now: Cell | Pause | None = None
        """None until it is ready."""
        self._calls = Calls(self.limits, opening.functions)
        self._farewell_s: float | None = None

    # -- from the launcher

    def connect(self, end: socket.socket, pid: int) -> None:
        """The jail's socket is here: tell it who it is."""
        self._pid = pid
        self.socket = FrameSocket(end)
        opening = self._opening
        self._tell(
            Init(
                limits=opening.limits,
                namespace=opening.namespace,
                functions=opening.functions,
                context_kind=opening.context_kind,
                context_fd=self._context_fd,
                context_bytes=opening.context_bytes,
            )
        )

    def died(self, status: int, *, out_of_memory: bool) -> None:
        """The process is reaped: take what it still said, then tell the driver, once."""
        while self.verdict is None and self.socket is not None and not self.socket.ended:
            before = self.socket.received_bytes
            self.on_readable()
            if self.socket.received_bytes == before:
                break
        starting = self._talk.state in ("new", "starting")
        how = death(status, self.limits, starting=starting, out_of_memory=out_of_memory)
        self._lost(self.verdict or how, status)

    def refused(self, detail: str) -> None:
        """The launcher could not start it."""
        self._lost(Verdict("start", f"the jail did not start: {detail}"), None)

    # -- from the driver

    def run(self, message: RunCell) -> None:
        """Start a cell."""
        if self.verdict is not None or self.over:
            return
        if self._now is not None and (settles_in_s := self._now.settles_in_s()):
            time.sleep(settles_in_s)  # not for nothing: even a sleep of 0 takes 70 µs
        self._now = Cell(message.cell, self._pid, self.limits, message.spent_s)
        self._tell(message)

    def reply(self, message: CallReply) -> None:
        """Pass an answer on, if the call is still open."""
        if message.jail == self.jail and self._calls.is_open(message.call):
            self._tell_reply(Reply(message.call, message.value, message.error))

    def _tell_reply(self, reply: Reply) -> None:
        if self._calls.answer(reply.call) and self._now is not None:
            self._now.clock.resume()
        self._tell(reply)

    def _tell(self, message: ToJail) -> None:
        if self.verdict is not None or self.socket is None:
            return
        try:
            body = KEEPER_TO_JAIL.encode(message)
        except LocalProtocolError as error:
            # A reply too large for the wire; Init and RunCell are bounded by the driver's link.
            if not isinstance(message, Reply):
                raise
            reply = Reply(message.call, error=CallError("LimitError", str(error)))
            body = KEEPER_TO_JAIL.encode(reply)
        self._talk.sent(message)
        try:
            self.socket.write(body)
        except RemoteProtocolError as error:
            self.end(Verdict("protocol", str(error)))

    # -- from the jail

    def on_readable(self) -> None:
        """Act on what the jail says; a broken rule is its end."""
        assert self.socket is not None
        try:
            for body in self.socket.read():
                if self.verdict is None:
                    self._hear(body)
        except RemoteProtocolError as error:
            cause: Cause = "output" if "of output" in error.detail else "protocol"
            self.end(Verdict(cause, str(error)))
        if self.socket.ended and self._farewell_s is None:
            self._farewell_s = time.monotonic() + FAREWELL_S

    def _hear(self, body: bytes | bytearray) -> None:
        heard = admit(body, self.limits.call_bytes)
        message = heard.message
        self._talk.received(message)
        match message:
            case Ready():
                self._on_ready(message)
            case Output():
                assert self._now is not None
                self._now.transcript.add(message)
            case Done():
                self._on_done(message)
            case _:
                self._on_call(message, heard)

    def _on_ready(self, ready: Ready) -> None:
        if ready.filtered != self._is_filtered:
            raise RemoteProtocolError(f"it says filtered={ready.filtered}", peer="jail")
        start_s = time.monotonic() - self._started_s
        self._now = Pause(self._pid, self.limits)
        self._send(
            JailReady(
                self.jail, ready.python, ready.filtered, ready.context, start_s, ready.context_s
            )
        )

    def _on_call(self, message: Call | Final, heard: Heard) -> None:
        assert isinstance(self._now, Cell)
        if (refusal := self._calls.ask(message, heard)) is not None:
            self._tell_reply(Reply(message.call, error=CallError("LimitError", refusal)))
            return
        cell = self._now.number
        self._now.clock.pause()
        self._send(
            FinalAnswer(self.jail, cell, message.call, message.value)
            if isinstance(message, Final)
            else HostCall(
                self.jail, cell, message.call, message.function, message.args, message.kwargs
            )
        )

    def _on_done(self, done: Done) -> None:
        cell = self._now
        if not isinstance(cell, Cell) or done.cell != cell.number:
            raise RemoteProtocolError(f"Done of cell {done.cell}", peer="jail")
        self._calls.end_cell()
        self._now = Pause(self._pid, self.limits, cell.settles_in_s())
        self._send(cell.done(self.jail, done))

    # -- time

    def tick(self) -> float:
        """Enforce what is due; seconds until this is wanted again, at most."""
        now_s = time.monotonic()
        if self.verdict is not None:
            return self._tick_ending(now_s)
        if self._farewell_s is not None:
            if now_s >= self._farewell_s:
                self.end(Verdict("protocol", "it closed its socket and lived on"))
            return 0.1
        if self._talk.state in ("new", "starting"):
            return self._tick_start(now_s)
        assert self._now is not None
        due = self._now.due()
        if due == "INT":
            self._signal("INT")
        elif due is not None:
            self.end(due)
        return self._now.look_again_s()

    def _tick_ending(self, now_s: float) -> float:
        """A jail that the launcher never had can't be reaped: say that it is gone."""
        assert self.verdict is not None
        if self.socket is None and now_s > self._ended_s + UNHEARD_S:
            self._lost(self.verdict, None)
        return 1.0

    def _tick_start(self, now_s: float) -> float:
        allowed_s = START_S + self._opening.context_bytes / CONTEXT_BYTES_PER_S
        left_s = self._started_s + allowed_s - now_s
        if left_s <= 0:
            self.end(Verdict("start", f"the jail was not ready after {allowed_s:.0f} s"))
        return max(left_s, 0.01)

    # -- the end

    def end(self, verdict: Verdict) -> None:
        """Kill the jail. The first verdict counts; it is told when the process is reaped."""
        if self.verdict is None and not self.over:
            self.verdict = verdict
            self._ended_s = time.monotonic()
            if self.socket is not None:
                self.socket.abandon()
            self._signal("KILL")

    def _lost(self, verdict: Verdict, status: int | None) -> None:
        if self.over:
            return
        self.over = True
        self.verdict = verdict
        told = status if verdict.status is None else verdict.status
        lost = JailLost(self.jail, verdict.cause, verdict.detail, told)
        self._send(self._now.lost(lost) if isinstance(self._now, Cell) else lost)
        if self.socket is not None:
            self.socket.close()
            self.socket = None
