"""Who may come in: the answers to ZeroMQ's question about each key (ZAP, RFC 27). No I/O.

ZeroMQ asks over a socket of its own after a peer has proved that it holds a key, and before
anything else is heard of it.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ENDPOINT = "inproc://zeromq.zap.01"
VERSION = b"1.0"
DOMAIN = b"distill"
"""A question of another domain is not about one of our sockets."""
QUESTION_PARTS = 7
"""Version, id, domain, address, identity, mechanism, and, of CURVE, the key."""

Allows = Callable[[bytes], bool]
"""Whether the holder of this public key may come in."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to answer; ``stranger`` says for the log who was turned away, "" if nobody was."""

    reply: list[bytes]
    stranger: str = ""


def judge(question: Sequence[bytes], allows: Allows) -> Verdict:
    """Whether this peer may come in. What is not understood is no."""
    if len(question) != QUESTION_PARTS or question[0] != VERSION:
        return Verdict(_reply(question[1] if len(question) > 1 else b"", b"500"))
    _, request, domain, address, _, mechanism, key = question
    if domain == DOMAIN and mechanism == b"CURVE" and allows(key):
        return Verdict(_reply(request, b"200"))
    return Verdict(
        _reply(request, b"400"),
        f"{address.decode('ascii', 'replace')} has a key that is not allowed: {fingerprint(key)}",
    )


def _reply(request: bytes, code: bytes) -> list[bytes]:
    text = b"OK" if code == b"200" else b"not allowed"
    return [VERSION, request, code, text, b"", b""]


def fingerprint(public_key: bytes) -> str:
    """A short name of a key, for people."""
    return hashlib.sha256(public_key).hexdigest()[:16]
