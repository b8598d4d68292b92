"""The codecs against honest peers (what goes in comes out) and against liars (typed errors)."""

import contextlib
import math
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.protocol import codec
from distill.protocol import jail_link as J
from distill.protocol import launcher_link as L
from distill.protocol import sandbox_link as S
from distill.protocol import worker_link as W
from distill.protocol.errors import LocalProtocolError, RemoteProtocolError
from distill.protocol.message import LogRecords, Shutdown, Welcome

PAIRS: dict[str, tuple[codec.Codec[Any, Any], codec.Codec[Any, Any]]] = {
    "driver-worker": (codec.DRIVER_TO_WORKER, codec.WORKER_TO_DRIVER),
    "driver-keeper": (codec.DRIVER_TO_KEEPER, codec.KEEPER_TO_DRIVER),
    "driver-client": (codec.DRIVER_TO_CLIENT, codec.CLIENT_TO_DRIVER),
    "driver-launcher": (codec.DRIVER_TO_LAUNCHER, codec.LAUNCHER_TO_DRIVER),
    "launcher-keeper": (codec.LAUNCHER_TO_KEEPER, codec.KEEPER_TO_LAUNCHER),
}
DECODERS = {
    **{f"{name}, one end": pair[0] for name, pair in PAIRS.items()},
    **{f"{name}, other end": pair[1] for name, pair in PAIRS.items()},
    "keeper-jail": codec.KEEPER_TO_JAIL,
}

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**60), 10**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.binary(max_size=8) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=6) | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(json_values)
def test_a_value_from_the_jail_reaches_the_driver_unchanged(value: Any) -> None:
    sent = S.FinalAnswer("jail", 1, 2, value)
    got = codec.DRIVER_TO_KEEPER.decode(codec.KEEPER_TO_DRIVER.encode(sent))
    assert got == sent
    assert repr(got) == repr(sent), "1 and True, or 0 and 0.0, must not be mixed up"


@given(json_values)
def test_a_value_from_the_driver_reaches_the_jail_unchanged(value: Any) -> None:
    data = codec.KEEPER_TO_JAIL.encode(J.Reply(7, value))

    def ext(code: int, digits: bytes) -> int:
        assert code == J.BIG_INT_EXT
        return int(digits)

    plain = msgpack.unpackb(data, ext_hook=ext, strict_map_key=False)
    assert plain.get("value") == value


@pytest.mark.parametrize(
    "message",
    [
        Welcome(1, 0.5),
        W.Requests((W.Request("a", 1, W.Sampling(stop=("x",), schema={"a": [1]}), prompt=""),)),
        W.Requests((W.Request("a", 1, W.Sampling(), messages=(W.ChatMessage("user", "é"),)),)),
        W.Cancel(("a", "b")),
        W.Drain(),
        Shutdown(),
    ],
)
def test_the_messages_of_a_worker_link_survive_the_wire(message: W.ToWorker) -> None:
    assert codec.WORKER_TO_DRIVER.decode(codec.DRIVER_TO_WORKER.encode(message)) == message


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=200)
@given(data=st.binary(max_size=200))
def test_noise_is_a_remote_error_and_nothing_else(name: str, data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        DECODERS[name].decode(data, peer="liar")


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=200)
@given(value=plain_values, kind=st.sampled_from(["Final", "HostCall", "Results", "Spawn", "Ask"]))
def test_well_formed_lies_are_a_remote_error_and_nothing_else(
    name: str, value: Any, kind: str
) -> None:
    shaped = {"type": kind, **value} if isinstance(value, dict) else {"type": kind, "value": value}
    for lie in (value, shaped):
        try:
            DECODERS[name].decode(msgpack.packb(lie))
        except RemoteProtocolError:
            continue


BOMBS = {
    "nested lists": b"\x91" * 100_000 + b"\xc0",
    "nested maps": b"\x81\xa1a" * 100_000 + b"\xc0",
    "a list that claims 4 billion items": b"\xdd\xff\xff\xff\xff",
    "a map that claims 4 billion items": b"\xdf\xff\xff\xff\xff",
    "a string that claims 4 GiB": b"\xdb\xff\xff\xff\xff",
    "bytes that claim 4 GiB": b"\xc6\xff\xff\xff\xff",
    "an extension that claims 4 GiB": b"\xc9\xff\xff\xff\xff\x01",
    "nothing": b"",
    "a reserved byte": b"\xc1",
    "two messages": msgpack.packb({"type": "Shutdown"}) * 2,
}


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused(name: str, bomb: str) -> None:
    with pytest.raises(RemoteProtocolError):
        DECODERS[name].decode(BOMBS[bomb])


@pytest.mark.parametrize("bomb", ["nested lists", "nested maps"])
def test_a_bomb_inside_a_value_is_refused(bomb: str) -> None:
    head = b"\x83\xa4type\xa5Final\xa4call\x01\xa5value"
    with pytest.raises(RemoteProtocolError):
        codec.KEEPER_TO_JAIL.decode(head + BOMBS[bomb])


@pytest.mark.parametrize("digits", [b"", b"x", b"1" * 4301, b"\xff", b"1e5"])
def test_a_big_integer_is_decimal_digits_and_short(digits: bytes) -> None:
    data = msgpack.packb({"type": "Final", "call": 1, "value": msgpack.ExtType(1, digits)})
    with pytest.raises(RemoteProtocolError):
        codec.KEEPER_TO_JAIL.decode(data)


def test_an_unknown_extension_is_refused() -> None:
    data = msgpack.packb({"type": "Final", "call": 1, "value": msgpack.ExtType(2, b"12")})
    with pytest.raises(RemoteProtocolError):
        codec.KEEPER_TO_JAIL.decode(data)


@pytest.mark.parametrize(
    "lie",
    [
        {"type": "Call", "call": -1, "function": "f", "args": [], "kwargs": {}},
        {"type": "Call", "call": 1, "function": "", "args": [], "kwargs": {}},
        {"type": "Call", "call": 1, "function": "f" * 257, "args": [], "kwargs": {}},
        {"type": "Call", "call": 1, "function": "f", "args": [], "kwargs": {1: 2}},
        {"type": "Call", "call": 1, "function": "f", "args": [], "kwargs": {}, "cell": 3},
        {"type": "Call", "call": True, "function": "f", "args": [], "kwargs": {}},
        {"type": "Call", "call": "1", "function": "f", "args": [], "kwargs": {}},
        {"type": "Done", "cell": 1, "dropped_bytes": -1},
        {"type": "Output", "stream": "log", "text": ""},
        {"type": "Output", "stream": "stdout", "text": b"bytes"},
        {"type": "Reply", "call": 1},
        {"type": "Init"},
        {"type": ["Done"]},
        {"cell": 1},
        ["Done", 1],
    ],
)
def test_a_jail_can_not_lie_about_the_shape(lie: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        codec.KEEPER_TO_JAIL.decode(msgpack.packb(lie))


def test_both_ends_hold_to_the_cap() -> None:
    big = "x" * L.PACKET_LIMIT_BYTES
    with pytest.raises(LocalProtocolError, match="the limit is"):
        codec.DRIVER_TO_LAUNCHER.encode(L.Spawn("a", (big,), {}, "/dev/null"))
    with pytest.raises(RemoteProtocolError, match="the limit is"):
        codec.LAUNCHER_TO_DRIVER.decode(b"\xc0" * (L.PACKET_LIMIT_BYTES + 1))


def test_a_batch_is_capped() -> None:
    request = W.Request("a", 1, W.Sampling(), prompt="x")
    too_many = W.Requests((request,) * (W.BATCH_REQUESTS + 1))
    with pytest.raises(RemoteProtocolError):
        codec.WORKER_TO_DRIVER.decode(codec.DRIVER_TO_WORKER.encode(too_many))
    records = codec.WORKER_TO_DRIVER.encode(LogRecords(({"event": "x"},) * 1025))
    with pytest.raises(RemoteProtocolError):
        codec.DRIVER_TO_WORKER.decode(records)


@pytest.mark.parametrize("key", [None, True, (1, 2)], ids=str)
def test_a_record_that_no_log_can_hold_is_the_peers_error(key: Any) -> None:
    """MessagePack has such keys; an encoder of JSON raises at them, when it is too late."""
    record = {"event": "x", "detail": [{key: 1}]}
    with pytest.raises(RemoteProtocolError, match="JSON can't hold"):
        codec.DRIVER_TO_WORKER.decode(msgpack.packb({"type": "LogRecords", "records": [record]}))


def test_an_error_names_the_peer_and_repeats_little_of_what_it_said() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.KEEPER_TO_JAIL.decode(msgpack.packb({"type": "x" * 5000}), peer="liar")
    assert caught.value.peer == "liar"
    assert len(caught.value.detail) <= 300


class Odd:
    """Nothing that the wire knows."""


@pytest.mark.parametrize(
    "value", [Odd(), object, "\ud800", (10**5000,)], ids=["odd", "class", "surrogate", "huge"]
)
def test_what_has_no_wire_form_is_our_own_error(value: Any) -> None:
    with pytest.raises(LocalProtocolError):
        codec.DRIVER_TO_KEEPER.encode(S.CallReply("jail", 1, value))


def test_a_value_that_contains_itself_is_our_own_error() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(LocalProtocolError):
        codec.DRIVER_TO_KEEPER.encode(S.CallReply("jail", 1, loop))


@given(st.floats())
def test_floats_travel_to_the_bit(value: float) -> None:
    sent = codec.KEEPER_TO_DRIVER.encode(S.FinalAnswer("j", 1, 1, value))
    got = codec.DRIVER_TO_KEEPER.decode(sent)
    assert isinstance(got, S.FinalAnswer)
    assert math.isnan(value) == math.isnan(got.value)
    assert math.isnan(value) or got.value == value


@pytest.mark.parametrize("sampling", [{"top_p": 0}, {"temperature": -1}, {"min_p": 2}, {"x": 1}])
def test_sampling_parameters_are_held_to_their_ranges(sampling: dict[str, Any]) -> None:
    request = {"id": "a", "attempt": 1, "sampling": sampling, "prompt": "x"}
    data = msgpack.packb({"type": "Requests", "requests": [request]})
    with pytest.raises(RemoteProtocolError):
        codec.WORKER_TO_DRIVER.decode(data)


@given(st.lists(st.integers(0, (1 << 32) - 1)))
def test_token_ids_survive_packing(ids: list[int]) -> None:
    packed = W.pack_ids(ids)
    assert W.unpack_ids(packed) == tuple(ids)
    results = W.Results((W.Result("r", 1, "", "stop", 0, 0, token_ids=packed),))
    assert codec.DRIVER_TO_WORKER.decode(codec.WORKER_TO_DRIVER.encode(results)) == results


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["logprobs", "queue_s", "compute_s"])
def test_numbers_that_no_log_can_hold_are_the_peers_error(field: str, number: float) -> None:
    lie = {"type": "Result", "id": "r", "attempt": 1, "text": "", "finish_reason": "stop"}
    value = [-0.5, number] if field == "logprobs" else number
    lie |= {"prompt_tokens": 0, "completion_tokens": 0, field: value}
    payload = msgpack.packb({"type": "Results", "results": [lie]})
    with pytest.raises(RemoteProtocolError, match=r"finite|>= 0"):
        codec.DRIVER_TO_WORKER.decode(payload)


@pytest.mark.parametrize("field", ["token_ids", "prompt_token_ids"])
def test_bytes_that_are_no_ids_are_the_peers_error(field: str) -> None:
    lie = {"type": "Result", "id": "r", "attempt": 1, "text": "", "finish_reason": "stop"}
    lie |= {"prompt_tokens": 0, "completion_tokens": 0, field: b"12345"}
    payload = msgpack.packb({"type": "Results", "results": [lie]})
    with pytest.raises(RemoteProtocolError, match="4 bytes each"):
        codec.DRIVER_TO_WORKER.decode(payload, peer="w")


@pytest.mark.parametrize("ids", [[-1], [1 << 32]])
def test_what_is_no_id_is_not_packed(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="not token ids"):
        W.pack_ids(ids)
