"""Bytes as a jail could send them: honest messages, mutated ones, and noise."""

import itertools
from typing import Any

import msgpack
from hypothesis import strategies as st

from distill.protocol.jail_link import HEADER_BYTES
from tests.security.properties import Script, framed

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(0, 5) | st.sampled_from([-1, 2**31, 2**53, 2**63, 2**64 - 1])
plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | words
    | st.sampled_from(["", "\0", "é" * 20, "x" * 700])
    | st.integers(2**64, 2**70).map(lambda n: msgpack.ExtType(1, str(n).encode()))
)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(words, inner, max_size=5),
    max_leaves=15,
)
_variables = st.fixed_dictionaries({"name": words, "type": words, "repr": words})
_errors = st.fixed_dictionaries({"name": words, "message": words, "traceback": words})
messages: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("Ready"),
            "python": words,
            "filtered": st.booleans(),
            "context": st.sampled_from(["none", "mapped", "x"]),
            "context_s": st.floats() | st.just(0.5),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("Call"),
            "call": numbers,
            "function": st.sampled_from(["f", "g", "FINAL", "eval"]),
            "args": st.lists(values, max_size=3),
            "kwargs": st.dictionaries(words, values, max_size=3),
        }
    ),
    st.fixed_dictionaries({"type": st.just("Final"), "call": numbers, "value": values}),
    st.fixed_dictionaries(
        {"type": st.just("Output"), "stream": st.sampled_from(["stdout", "stderr"]), "text": words}
    ),
    st.fixed_dictionaries(
        {"type": st.just("Done"), "cell": numbers},
        optional={
            "error": _errors,
            "variables": st.lists(_variables, max_size=3),
            "open_calls": numbers,
            "live_threads": numbers,
            "dropped_bytes": numbers,
        },
    ),
)
"""What an interpreter says, though not in this order or with these numbers."""

bodies: st.SearchStrategy[bytes] = messages.map(msgpack.packb)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A message's bytes with a few of them changed, cut out, repeated or put in."""
    body = bytearray(draw(bodies))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        end = at + draw(st.integers(0, 8))
        body[at:end] = draw(
            st.binary(max_size=6) | st.just(bytes(body[at:end]) * 2) | st.just(b"\xdd\xff\xff\xff")
        )
    return bytes(body)


hostile = bodies | mutated() | st.binary(max_size=120)
"""One frame's body."""


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """What one jail says: frames, now and then with a header that lies."""
    parts = []
    for body in draw(st.lists(hostile, max_size=8)):
        header = framed(body)[:HEADER_BYTES]
        parts.append(draw(st.sampled_from([header] * 9 + [b"\x00\x00\x00\x05"])) + body)
    return b"".join(parts)


@st.composite
def cut(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """The same bytes in several writes."""
    places = draw(st.lists(st.integers(0, len(stream)), max_size=6))
    edges = [0, *sorted(places), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges) if a < b]


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """A few steps; most begin as an honest jail would."""
    steps = st.one_of(
        streams().map(lambda data: ("say", data)),
        st.sampled_from([("run", b""), ("reply", b""), ("close", b"")]),
    )
    opening: Script = draw(st.sampled_from([[], [("ready", b"")], [("ready", b""), ("run", b"")]]))
    return [*opening, *draw(st.lists(steps, max_size=6))]  # type: ignore[list-item]
