"""The walk through a frame agrees with MessagePack's own reader on all that JSON-like means."""

import math
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.protocol.errors import RemoteProtocolError
from distill.protocol.jail_link import DEPTH_LIMIT, ELEMENT_LIMIT
from distill.sandbox.scan import scan

unhurried = settings(deadline=None)
"""A loaded machine is no counter-example."""

LENGTHS = st.sampled_from([0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536])
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=40)
    | LENGTHS.map(lambda n: "x" * n)
    | LENGTHS.map(lambda n: [0] * n)
    | st.sampled_from([0, 1, 15, 16, 300, 70_000]).map(lambda n: {str(i): i for i in range(n)})
    | LENGTHS.map(lambda n: msgpack.ExtType(1, b"9" * n))
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=9), inner, max_size=20)
    ),
    max_leaves=20,
)


def count(value: Any) -> int:
    if isinstance(value, list):
        return 1 + sum(map(count, value))
    if isinstance(value, dict):
        return 1 + sum(1 + count(item) for item in value.values())
    return 1


def finite(value: Any) -> bool:
    if isinstance(value, list | dict):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


@unhurried
@given(VALUES, st.booleans())
def test_counts_as_the_reader_builds(value: Any, single: bool) -> None:
    body = msgpack.packb(value, use_single_float=single and finite_as_single(value))
    read = msgpack.unpackb(body, strict_map_key=False)
    assert scan(body) == (count(read), finite(read))


def finite_as_single(value: Any) -> bool:
    """Whether packing floats in 4 bytes overflows nothing."""
    try:
        msgpack.packb(value, use_single_float=True)
    except OverflowError:
        return False
    return True


@unhurried
@given(VALUES, st.data())
def test_a_cut_or_longer_frame_is_refused(value: Any, data: st.DataObject) -> None:
    body = msgpack.packb(value)
    cut = data.draw(st.integers(0, len(body) - 1))
    for broken in (body[:cut], body + b"\x00"):
        with pytest.raises(RemoteProtocolError):
            scan(broken)


@unhurried
@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(body: bytes) -> None:
    try:
        shape = scan(body)
    except RemoteProtocolError:
        return
    read = msgpack.unpackb(body, unicode_errors="replace")
    assert shape.finite == finite(read)


def test_the_limits_are_exact() -> None:
    def nested(depth: int) -> bytes:
        return b"\x91" * (depth - 1) + b"\x90"

    assert scan(msgpack.packb([0] * (ELEMENT_LIMIT - 1))).elements == ELEMENT_LIMIT
    assert scan(nested(DEPTH_LIMIT)).elements == DEPTH_LIMIT
    with pytest.raises(RemoteProtocolError, match="ELEMENT_LIMIT"):
        scan(msgpack.packb([0] * ELEMENT_LIMIT))
    with pytest.raises(RemoteProtocolError, match="DEPTH_LIMIT"):
        scan(nested(DEPTH_LIMIT + 1))
