"""Properties of every decoder that sees a jail's bytes, and of the driver's, should a keeper lie.

Never any exception but the typed one; time and memory bounded by the bytes; one meaning for
one body. ``fuzz_decoders.py`` asks the same for hours.
"""

import contextlib
import gc
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.protocol import codec
from distill.protocol import sandbox_link as S
from distill.protocol.errors import RemoteProtocolError
from distill.protocol.jail_link import (
    ELEMENT_LIMIT,
    CellError,
    Done,
    Limits,
    Output,
    RunCell,
)
from distill.sandbox.cell import Cell
from distill.sandbox.frames import READ_BYTES
from distill.sandbox.intake import admit
from distill.sandbox.scan import scan
from distill.sandbox.transcript import Transcript
from tests.sandbox.conftest import MIB
from tests.security.hostile_bytes import bodies, cut, hostile, scripts, streams
from tests.security.properties import (
    FOUND,
    Script,
    check_agreement,
    check_one_form,
    framed,
    heard,
    play,
    taken,
)

unhurried = settings(deadline=None)
"""A loaded machine is no counter-example."""

# -- a frame's body


@unhurried
@given(hostile)
def test_a_body_is_taken_or_refused_by_the_typed_error(body: bytes) -> None:
    taken(body)


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once(name: str) -> None:
    taken(FOUND[name])
    play([("say", framed(FOUND[name]))])
    play([("ready", b""), ("run", b""), ("say", framed(FOUND[name]))])


@unhurried
@given(bodies)
def test_what_is_taken_has_one_form(body: bytes) -> None:
    check_one_form(body)


@unhurried
@given(hostile)
def test_the_walk_and_the_readers_agree(body: bytes) -> None:
    check_agreement(body)


# -- what a body costs

LARGE: dict[str, Callable[[int], bytes]] = {
    "numbers": lambda n: msgpack.packb([7] * n),
    "empty lists": lambda n: msgpack.packb([[]] * n),
    "empty maps": lambda n: msgpack.packb([{}] * n),
    "short texts": lambda n: msgpack.packb([f"{i:05}" for i in range(n)]),
    "one map": lambda n: msgpack.packb({f"{i:05}": None for i in range(n)}),
    "keys that are the same": lambda n: b"\xdf" + n.to_bytes(4, "big") + b"\xa1x\xc0" * n,
    "one text": lambda n: msgpack.packb("x" * 20 * n),
    "wide text": lambda n: msgpack.packb("x" * 20 * n + "😀"),
    "nested lists": lambda n: msgpack.packb([_nested(90)] * (n // 90)),
    "large integers": lambda n: msgpack.packb([msgpack.ExtType(1, b"9" * 4300)] * (n // 200)),
    "floats": lambda n: msgpack.packb([1.5] * n),
}


def _nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


def call(value: bytes) -> bytes:
    """A Call of one argument, already packed."""
    head = {"type": "Call", "call": 1, "function": "f", "kwargs": {}}
    packed = bytes(msgpack.packb(head))
    return b"\x85" + packed[1:] + bytes(msgpack.packb("args")) + b"\x91" + value


@pytest.mark.parametrize("name", LARGE)
def test_time_grows_as_the_bytes(name: str) -> None:
    small, large = (call(LARGE[name](n)) for n in (10_000, 80_000))
    spent = [seconds(lambda body=body: admit(body, 8 * MIB)) for body in (small, large)]  # type: ignore[misc]
    assert spent[1] < 4 * (len(large) / len(small)) * max(spent[0], 0.001), spent


def seconds(work: Callable[[], object]) -> float:
    """CPU time that it takes, the best of three."""

    def once() -> Iterator[float]:
        for _ in range(3):
            started = time.process_time()
            work()
            yield time.process_time() - started

    return min(once())


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", LARGE)
def test_memory_is_bounded_by_the_values_and_the_bytes(name: str) -> None:
    body = call(LARGE[name](100_000))
    allowed = 130 * scan(body).elements + 5 * len(body) + MIB
    assert peak_bytes(lambda: admit(body, 64 * MIB)) < allowed


REFUSED: dict[str, bytes] = {
    "too many values": call(msgpack.packb([[]] * ELEMENT_LIMIT)),
    "bytes": call(msgpack.packb([[]] * 100_000 + [b"x"])),
    "too deep": call(msgpack.packb([[]] * 100_000 + [_nested(200)])),
    "cut": call(msgpack.packb(["x"] * 100_000))[:-1],
    "more than call_bytes": call(msgpack.packb("x" * (9 * MIB) + "😀")),
    "a large Output": msgpack.packb(
        {"type": "Output", "stream": "stdout", "text": "x" * (9 * MIB) + "😀"}
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_costs_nothing(name: str) -> None:
    def refuse() -> None:
        with contextlib.suppress(RemoteProtocolError):
            heard = admit(REFUSED[name], MIB)
            assert heard.size_bytes > MIB

    refuse()
    assert peak_bytes(refuse) < 0.2 * MIB


@pytest.mark.parametrize("body", [call(msgpack.packb([1, {"a": "b"}])), *REFUSED.values()])
def test_nothing_waits_for_the_garbage_collector(body: bytes) -> None:
    gc.collect()
    with contextlib.suppress(RemoteProtocolError):
        admit(body, MIB)
    assert gc.collect() == 0


def test_a_print_of_one_character_costs_one_byte() -> None:
    def add_all() -> None:
        transcript = Transcript(MIB)
        for _ in range(100_000):
            transcript.add(Output("stdout", "x"))
            transcript.add(Output("stdout", ""))
        assert len(transcript.stdout) == 100_000

    assert peak_bytes(add_all) < 500_000


# -- a stream of frames


@unhurried
@given(st.data())
def test_how_a_stream_is_cut_does_not_matter(data: st.DataObject) -> None:
    stream = data.draw(streams())
    assert heard(data.draw(cut(stream))) == heard([stream])


@pytest.mark.parametrize("size", [READ_BYTES - 4, READ_BYTES, READ_BYTES + 1, 3 * READ_BYTES])
def test_a_large_frame_among_small_ones(size: int) -> None:
    large = os.urandom(size)
    expected = [b"one", large, b"two", b"", large, b"three"]
    stream = b"".join(map(framed, expected))
    for step in (1000, 100_000):
        pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
        assert heard(pieces) == (expected, False)


# -- a session, end to end


@unhurried
@given(scripts())
def test_a_session_survives_whatever_is_said(script: Script) -> None:
    """And what the driver hears of it is always legal, whole, and ends with one JailLost."""
    play(script)


def test_our_words_after_the_jails_own_fit_the_link() -> None:
    """An interrupted cell's error is told with the limit: also where the jail filled it up."""
    cell = Cell(1, os.getpid(), Limits(cell_s=0.0), 0.0)
    assert cell.due() == "INT"
    error = CellError("KeyboardInterrupt", "m" * 65_536, "t" * 65_536)
    told = codec.KEEPER_TO_DRIVER.encode(cell.done("jail", Done(1, error)))
    read = codec.DRIVER_TO_KEEPER.decode(told)
    assert isinstance(read, S.CellDone)
    assert read.error is not None
    assert read.error.message.endswith("m (limit: cell_s = 0 s)")


# -- the driver's end, should a keeper lie

KEEPER_SAYS: tuple[S.FromKeeper, ...] = (
    S.KeeperHello(1, "k", "e", 1, refusal=S.NoJail(("x",), "y")),
    S.JailReady("j", "3", True, "none", 0.1, 0.2),
    S.JailLost("j", "exit", "d", 1, 2, "out", "err"),
    S.HostCall("j", 1, 2, "f", ("x", {"a": 10**30}), {"k": None}),
    S.FinalAnswer("j", 1, 2, [1.5, "x"]),
    S.CellDone("j", 1, "out", "err"),
)


@unhurried
@given(st.sampled_from(KEEPER_SAYS), st.data())
def test_the_driver_takes_or_refuses_what_a_keeper_says(
    message: S.FromKeeper, data: st.DataObject
) -> None:
    body = bytearray(codec.KEEPER_TO_DRIVER.encode(message))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=5))
    with contextlib.suppress(RemoteProtocolError):
        codec.DRIVER_TO_KEEPER.decode(body)


LIES: dict[str, tuple[bytes, str]] = {
    "a message of the driver's own": (
        codec.DRIVER_TO_KEEPER.encode(RunCell(1, "x")),
        "Invalid value 'RunCell'",
    ),
    "an unknown message": (msgpack.packb({"type": "Exec", "code": "x"}), "Invalid value 'Exec'"),
    "too many bytes": (bytes(S.FRAME_LIMIT_BYTES + 1), "the limit is 83886080"),
    "a cause of its own": (
        msgpack.packb({"type": "JailLost", "jail": "j", "cause": "x", "detail": ""}),
        "$.cause",
    ),
    "a name of a megabyte": (
        msgpack.packb({"type": "JailLost", "jail": "j" * MIB, "cause": "exit", "detail": ""}),
        "<= 256",
    ),
    "a million variables": (
        msgpack.packb(
            {
                "type": "CellDone",
                "jail": "j",
                "cell": 1,
                "stdout": "",
                "stderr": "",
                "variables": [{"name": "", "type": "", "repr": ""}] * 100_000,
            }
        ),
        "$.variables",
    ),
    "nested without end": (b"\x91" * 10**6, ""),
    "four billion values in five bytes": (b"\xdd\xff\xff\xff\xff", ""),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lying_keeper_is_refused(name: str) -> None:
    body, detail = LIES[name]
    with pytest.raises(RemoteProtocolError) as caught:
        codec.DRIVER_TO_KEEPER.decode(body, peer="keeper")
    assert detail in str(caught.value)
    assert len(str(caught.value)) < 400, "the evidence repeats what was sent"
