"""MessagePack in, messages out, and back; strict, and capped in size.

Both ends of a link share a Codec: what one end may send is what the other may receive.
"""

from typing import Any, Generic, TypeVar

import msgspec

from distill.protocol import (
    client_link,
    jail_link,
    launcher_link,
    placer_link,
    sandbox_link,
    worker_link,
)
from distill.protocol.errors import LocalProtocolError, RemoteProtocolError

BIG_INT_DIGITS = 4300
"""CPython's own cap on converting an integer to and from decimal digits."""

Sent = TypeVar("Sent")
Received = TypeVar("Received")


def _decode_ext(code: int, data: memoryview) -> int:
    digits = bytes(data)
    if code != jail_link.BIG_INT_EXT or len(digits) > BIG_INT_DIGITS:
        raise ValueError(f"extension {code} of {len(digits)} bytes")
    # One form for one value: ``int`` alone would take spaces, signs, underscores and zeros.
    if not digits.removeprefix(b"-").isdigit() or _fits(value := int(digits)):
        raise ValueError("an extension that is no integer beyond 64 bits")
    if digits.removeprefix(b"-").startswith(b"0"):
        raise ValueError("an integer with zeros before it")
    return value


def _fits(value: int) -> bool:
    """Whether MessagePack has an integer of its own for it."""
    return -(1 << 63) <= value < 1 << 64


def _with_big_ints(value: Any) -> Any:
    """``value`` with integers that MessagePack can't hold as extension 1."""
    if isinstance(value, dict):
        return {_with_big_ints(key): _with_big_ints(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_big_ints(item) for item in value]
    if isinstance(value, int) and not _fits(value):
        digits = str(value).encode()
        return msgspec.msgpack.Ext(jail_link.BIG_INT_EXT, digits)
    return value


class Codec(Generic[Sent, Received]):
    """Encodes ``Sent`` messages and decodes ``Received`` ones, at most ``limit_bytes`` each."""

    def __init__(self, received: Any, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(received, ext_hook=_decode_ext)

    def encode(self, message: Sent) -> bytes:
        """The message's bytes.

        Raises LocalProtocolError if it is too large, or holds a value with no wire form.
        """
        try:
            data = self._pack(message)
        except (OverflowError, ValueError, TypeError, RecursionError) as error:
            raise LocalProtocolError(f"{type(message).__name__}: {error}") from error
        if len(data) > self.limit_bytes:
            raise LocalProtocolError(
                f"{type(message).__name__} of {len(data)} bytes, the limit is {self.limit_bytes}"
            )
        return data

    def _pack(self, message: Sent) -> bytes:
        try:
            return self._encoder.encode(message)
        except OverflowError:
            plain = msgspec.to_builtins(message, builtin_types=(bytes,))
            return self._encoder.encode(_with_big_ints(plain))

    def decode(self, data: bytes | bytearray | memoryview, *, peer: str = "") -> Received:
        """The message in ``data``; raises RemoteProtocolError for anything else."""
        if len(data) > self.limit_bytes:
            raise RemoteProtocolError(
                f"{len(data)} bytes, the limit is {self.limit_bytes}", peer=peer
            )
        try:
            message: Received = self._decoder.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise RemoteProtocolError(str(error)[:300], peer=peer) from None
        return message


W, S, J, C, L = worker_link, sandbox_link, jail_link, client_link, launcher_link
P = placer_link

DRIVER_TO_WORKER: Codec[W.ToWorker, W.FromWorker] = Codec(W.FromWorker, W.FRAME_LIMIT_BYTES)
WORKER_TO_DRIVER: Codec[W.FromWorker, W.ToWorker] = Codec(W.ToWorker, W.FRAME_LIMIT_BYTES)
DRIVER_TO_KEEPER: Codec[S.ToKeeper, S.FromKeeper] = Codec(S.FromKeeper, S.FRAME_LIMIT_BYTES)
KEEPER_TO_DRIVER: Codec[S.FromKeeper, S.ToKeeper] = Codec(S.ToKeeper, S.FRAME_LIMIT_BYTES)
KEEPER_TO_JAIL: Codec[J.ToJail, J.FromJail] = Codec(J.FromJail, J.FRAME_LIMIT_BYTES)
DRIVER_TO_CLIENT: Codec[C.ToClient, C.FromClient] = Codec(C.FromClient, C.FRAME_LIMIT_BYTES)
CLIENT_TO_DRIVER: Codec[C.FromClient, C.ToClient] = Codec(C.ToClient, C.FRAME_LIMIT_BYTES)
DRIVER_TO_LAUNCHER: Codec[L.ToLauncher, L.FromLauncher] = Codec(
    L.FromLauncher, L.PACKET_LIMIT_BYTES
)
LAUNCHER_TO_DRIVER: Codec[L.FromLauncher, L.ToLauncher] = Codec(L.ToLauncher, L.PACKET_LIMIT_BYTES)
DRIVER_TO_PLACER: Codec[P.ToPlacer, P.FromPlacer] = Codec(P.FromPlacer, P.FRAME_LIMIT_BYTES)
PLACER_TO_DRIVER: Codec[P.FromPlacer, P.ToPlacer] = Codec(P.ToPlacer, P.FRAME_LIMIT_BYTES)
LAUNCHER_TO_KEEPER: Codec[S.LauncherToKeeper, S.KeeperToLauncher] = Codec(
    S.KeeperToLauncher, L.PACKET_LIMIT_BYTES
)
KEEPER_TO_LAUNCHER: Codec[S.KeeperToLauncher, S.LauncherToKeeper] = Codec(
    S.LauncherToKeeper, L.PACKET_LIMIT_BYTES
)
