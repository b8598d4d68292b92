"""One set of bytes for both codecs: ``golden.json`` holds each message and its frame's body.

Rewrite it with ``python tests/sandbox/test_golden.py`` when the wire changes on purpose.
"""

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from distill.protocol import jail_link as J
from distill.protocol.codec import BIG_INT_DIGITS, KEEPER_TO_JAIL, Codec
from distill.sandbox.jail import wire

FILE = Path(__file__).with_name("golden.json")
JAIL_SIDE: Codec[Any, Any] = Codec(J.ToJail, J.FRAME_LIMIT_BYTES)

FROM_JAIL: list[dict[str, Any]] = [
    {"type": "Ready", "python": "3.11.7", "filtered": True, "context": "mapped", "context_s": 0.25},
    {
        "type": "Call",
        "call": 1,
        "function": "worker",
        "args": ["ü ☃ 😀", None, True, -1, 2.5],
        "kwargs": {"schema": {"a": [1, {"b": []}]}},
    },
    {
        "type": "Call",
        "call": 2,
        "function": "f",
        "args": [10**30, -(10**25), 2**64 - 1, -(2**63)],
        "kwargs": {},
    },
    {"type": "Final", "call": 3, "value": None},
    {"type": "Final", "call": 4, "value": {"answer": [0, "", False]}},
    {"type": "Output", "stream": "stderr", "text": "line\n"},
    {"type": "Done", "cell": 7},
    {
        "type": "Done",
        "cell": 8,
        "error": {"name": "ValueError", "message": "m", "traceback": "t", "line": 3},
        "variables": [
            {"name": "x", "type": "int", "repr": "1", "size": None},
            {"name": "s", "type": "str", "repr": "'a'", "size": 1},
        ],
        "open_calls": 1,
        "live_threads": 2,
        "dropped_bytes": 3,
    },
]
TO_JAIL: list[J.ToJail] = [
    J.Init(J.Limits(), {"query": "q", "n": 10**30}, ("worker", "FINAL"), "latin-1", 11, 5),
    J.RunCell(1, "print('ü')", 1.5),
    J.Reply(1, "answer"),
    J.Reply(2, 10**40),
    J.Reply(3, error=J.CallError("WorkerBatchError", "d", ("a", None), {1: "why"})),
]


def jail_bytes(message: dict[str, Any]) -> bytes:
    """What the jail writes, its values prepared as a cell's are."""
    ready = {
        key: wire.to_wire(value, key) if key in ("args", "kwargs", "value") else value
        for key, value in message.items()
    }
    return wire.pack(ready)[wire.HEADER_BYTES :]


def vectors() -> dict[str, list[list[Any]]]:
    return {
        "from_jail": [[message, jail_bytes(message).hex()] for message in FROM_JAIL],
        "to_jail": [[msgspec.to_builtins(m), KEEPER_TO_JAIL.encode(m).hex()] for m in TO_JAIL],
    }


GOLDEN: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else vectors()


@pytest.mark.parametrize(("message", "data"), GOLDEN["from_jail"])
def test_jail_writes_and_keeper_reads(message: dict[str, Any], data: str) -> None:
    assert jail_bytes(message).hex() == data
    decoded = KEEPER_TO_JAIL.decode(bytes.fromhex(data))
    told = msgspec.to_builtins(decoded)
    for field in ("args", "variables"):
        if field in told:
            told[field] = list(told[field])
    assert {**told, **message} == {**message, **told}
    assert told["type"] == message["type"]


@pytest.mark.parametrize("index", range(len(TO_JAIL)))
def test_keeper_writes_and_jail_reads(index: int) -> None:
    message, data = GOLDEN["to_jail"][index]
    assert KEEPER_TO_JAIL.encode(TO_JAIL[index]).hex() == data
    read = json.loads(json.dumps(wire.unpack(bytes.fromhex(data))))
    assert read == json.loads(json.dumps(message))
    assert JAIL_SIDE.decode(bytes.fromhex(data)) == TO_JAIL[index]


def test_every_message_has_a_vector() -> None:
    covered = {m["type"] for m, _ in GOLDEN["from_jail"]} | {
        m["type"] for m, _ in GOLDEN["to_jail"]
    }
    assert covered == {kind.__name__ for kind in get_args(J.FromJail) + get_args(J.ToJail)}


def test_both_sides_agree_on_the_frame() -> None:
    assert wire.HEADER_BYTES == J.HEADER_BYTES
    assert wire.FRAME_LIMIT_BYTES == J.FRAME_LIMIT_BYTES
    assert wire.BIG_INT_EXT == J.BIG_INT_EXT
    assert wire.BIG_INT_DIGITS == BIG_INT_DIGITS
    assert wire.ELEMENT_LIMIT == J.ELEMENT_LIMIT
    assert wire.DEPTH_LIMIT + 2 == J.DEPTH_LIMIT  # the message and its args


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n")
