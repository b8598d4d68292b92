"""What must hold of every decoder that sees a jail's bytes, whatever the bytes.

Asked by the property tests and by the long fuzzer. Each raises AssertionError, or whatever the
decoder should not have raised.
"""

import contextlib
import os
import socket
from collections.abc import Iterable
from typing import Any, Literal

import msgpack
import msgspec

from distill.protocol import sandbox_link
from distill.protocol.codec import DRIVER_TO_KEEPER, KEEPER_TO_DRIVER, Codec
from distill.protocol.conversation import Conversation
from distill.protocol.errors import RemoteProtocolError
from distill.protocol.jail_link import (
    BIG_INT_EXT,
    DEPTH_LIMIT,
    FRAME_LIMIT_BYTES,
    HEADER_BYTES,
    FromJail,
    Limits,
    RunCell,
    ToJail,
)
from distill.protocol.message import Message
from distill.protocol.sandbox_link import (
    CallReply,
    CellDone,
    FinalAnswer,
    FromKeeper,
    HostCall,
    JailLost,
    OpenJail,
)
from distill.sandbox.frames import FrameSocket
from distill.sandbox.intake import admit
from distill.sandbox.scan import scan
from distill.sandbox.session import Session

LIMITS = Limits(output_bytes=1000, calls_in_flight=4, calls_per_cell=8, call_bytes=600, cell_s=60.0)

JAIL: Codec[FromJail, ToJail] = Codec(ToJail, FRAME_LIMIT_BYTES)
READY = msgpack.packb(
    {"type": "Ready", "python": "3.11.7", "filtered": True, "context": "none", "context_s": 0.1}
)
Step = tuple[Literal["say", "ready", "run", "reply", "close"], bytes]
Script = list[Step]
"""What happens to a session: the jail says these bytes, the driver runs a cell, …"""

FOUND: dict[str, bytes] = {
    "a sum beyond 64 bits, which the driver refused": msgpack.packb(
        {"type": "Done", "cell": 1, "dropped_bytes": 2**64 - 1}
    ),
    "an integer with an underscore": msgpack.packb(
        {"type": "Final", "call": 1, "value": msgpack.ExtType(1, b"1" * 20 + b"_1")}
    ),
    "an infinite start": msgpack.packb(
        {
            "type": "Ready",
            "python": "3",
            "filtered": True,
            "context": "none",
            "context_s": float("inf"),
        }
    ),
    "an error's name without end": msgpack.packb(
        {
            "type": "Done",
            "cell": 1,
            "error": {"name": "x" * 300, "message": "", "traceback": ""},
        }
    ),
}
"""Bodies by which one of these properties was broken once."""


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(HEADER_BYTES, "big") + body


# -- a frame's body


def taken(body: bytes) -> Message | None:
    """The message that a frame's body is taken for, None if it is refused by the typed error."""
    try:
        return admit(body, LIMITS.call_bytes).message
    except RemoteProtocolError:
        return None


def check_one_form(body: bytes) -> None:
    """What is taken, encoded again and taken again, is the same."""
    message = taken(body)
    if message is not None:
        again = JAIL.encode(message)  # type: ignore[arg-type]
        assert JAIL.encode(taken(again)) == again  # type: ignore[arg-type]


class Pairs(list[Any]):
    """A map as it was written, duplicate keys and all."""


def read(body: bytes) -> Any:
    """MessagePack's own reader. Raises ValueError."""
    return msgpack.unpackb(
        body, strict_map_key=False, object_pairs_hook=Pairs, unicode_errors="surrogateescape"
    )


def is_json_like(value: Any) -> bool:
    if isinstance(value, Pairs):
        return all(isinstance(key, str) and is_json_like(item) for key, item in value)
    if isinstance(value, list):
        return all(map(is_json_like, value))
    if isinstance(value, msgpack.ExtType):
        return bool(value.code == BIG_INT_EXT)
    return value is None or isinstance(value, bool | int | float | str)


def count(value: Any) -> int:
    if isinstance(value, Pairs):
        return 1 + sum(1 + count(item) for _, item in value)
    return 1 + sum(map(count, value)) if isinstance(value, list) else 1


def depth(value: Any) -> int:
    if isinstance(value, Pairs):
        return 1 + max((depth(item) for _, item in value), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def check_agreement(body: bytes) -> None:
    """The walk takes what MessagePack's reader can read and JSON can hold, and counts it right."""
    try:
        value = read(body)
    except ValueError:
        value = msgspec.UNSET
    allowed = value is not msgspec.UNSET and is_json_like(value) and depth(value) <= DEPTH_LIMIT
    try:
        shape = scan(body)
    except RemoteProtocolError:
        assert not allowed, "refused by the walk alone"
        return
    assert allowed, "taken by the walk alone"
    assert shape.elements == count(value)


# -- a stream of frames


def heard(chunks: Iterable[bytes]) -> tuple[list[bytes], bool]:
    """The bodies that a FrameSocket makes of these writes, and whether it refused the rest."""
    jail, keeper = socket.socketpair()
    with jail, keeper:
        frames = FrameSocket(keeper)
        found: list[bytes] = []
        for chunk in chunks:
            jail.sendall(chunk)
            try:
                found += map(bytes, frames.read())
            except RemoteProtocolError:
                return found, True
        return found, False


class ScriptedJail:
    """A Session in this process between two of our own hands: its jail's and its driver's."""

    def __init__(self) -> None:
        self.signals: list[str] = []
        self._talk = Conversation(sandbox_link.TRANSITIONS, peer="keeper", start="opening")
        self._open: set[int] = set()
        self._cells = 0
        self._end, keeper = socket.socketpair()
        self._end.setblocking(False)
        opening = OpenJail("jail", LIMITS, {}, ("FINAL", "f", "g"), "none", 0)
        self._session = Session(opening, self._hear, self.signals.append, 11, is_filtered=True)
        self._session.connect(keeper, os.getpid())

    def _hear(self, message: FromKeeper) -> None:
        """As the driver: all of it must be readable and legal."""
        read = DRIVER_TO_KEEPER.decode(KEEPER_TO_DRIVER.encode(message))
        self._talk.received(read)
        if isinstance(read, HostCall | FinalAnswer):
            assert read.call not in self._open
            self._open.add(read.call)
            assert len(self._open) <= LIMITS.calls_in_flight
        elif isinstance(read, CellDone | JailLost):
            self._open.clear()
            assert len(read.stdout + read.stderr) <= LIMITS.output_bytes + 200  # and a note

    def act(self, kind: str, data: bytes) -> None:
        """One step of a script, if it is possible now."""
        if kind in ("say", "ready"):
            self._say(data or framed(READY))
        elif kind == "close":
            self._end.shutdown(socket.SHUT_WR)
            self._read()
        elif kind == "reply" and self._open and self._talk.state == "running":
            reply = CallReply("jail", self._open.pop(), ["x" * 100])
            self._talk.sent(reply)
            self._session.reply(reply)
        elif kind == "run" and self._talk.state == "idle":
            self._cells += 1
            cell = RunCell(self._cells, "")
            self._talk.sent(cell)
            self._session.run(cell)

    def _say(self, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            self._end.send(data)
        self._read()

    def _read(self) -> None:
        frames = self._session.socket
        before = -1
        while frames is not None and not frames.ended and frames.received_bytes != before:
            before = frames.received_bytes
            self._session.on_readable()
            self._session.tick()

    def die(self) -> None:
        """The launcher reaps it."""
        self._session.died(-9, out_of_memory=False)
        self._end.close()
        assert self._talk.state == "empty", "its end was not told"
        assert self._session.socket is None


def play(script: Script) -> None:
    """Raises whatever is wrong with the session."""
    jail = ScriptedJail()
    try:
        for kind, data in script:
            jail.act(kind, data)
    finally:
        jail.die()
