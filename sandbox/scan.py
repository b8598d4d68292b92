"""A frame's shape, known before any value of it is built.

One byte on the wire can be an object of 64 bytes here, and again in the driver: a frame of
8 MiB of empty lists is 700 MB, twice. So its bytes are walked first, in place. The walk stops
at the limits; it also refuses all of MessagePack that is not JSON-like.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, NoReturn

from distill.protocol.errors import RemoteProtocolError
from distill.protocol.jail_link import BIG_INT_EXT, DEPTH_LIMIT, ELEMENT_LIMIT

Kind = Literal["plain", "float", "text", "list", "map", "extension", "refused"]


class Shape(NamedTuple):
    """How many values a frame holds, keys counted, and whether all its floats are finite."""

    elements: int
    finite: bool


@dataclass(frozen=True, slots=True)
class Lead:
    """What a first byte says: ``width`` bytes follow it, a length unless plain or float."""

    kind: Kind
    width: int = 0
    amount: int = 0
    """The length, where the first byte holds it itself."""


def _leads() -> tuple[Lead, ...]:
    table = [Lead("plain")] * 256
    table[0x80:0x90] = [Lead("map", 0, n) for n in range(16)]
    table[0x90:0xA0] = [Lead("list", 0, n) for n in range(16)]
    table[0xA0:0xC0] = [Lead("text", 0, n) for n in range(32)]
    table[0xC1] = table[0xC4] = table[0xC5] = table[0xC6] = Lead("refused")
    table[0xC7:0xCA] = [Lead("extension", width) for width in (1, 2, 4)]
    table[0xCA:0xCC] = [Lead("float", width) for width in (4, 8)]
    table[0xCC:0xD4] = [Lead("plain", width) for width in (1, 2, 4, 8) * 2]
    table[0xD4:0xD9] = [Lead("extension", 0, n) for n in (1, 2, 4, 8, 16)]
    table[0xD9:0xDC] = [Lead("text", width) for width in (1, 2, 4)]
    table[0xDC:0xE0] = [Lead(kind, width) for kind in ("list", "map") for width in (2, 4)]
    return tuple(table)


LEADS = _leads()


def _broken(detail: str) -> NoReturn:
    raise RemoteProtocolError(detail, peer="jail")


class _Walk:
    """The walk through one frame; ``left`` counts what the innermost container still needs."""

    def __init__(self, body: bytes | bytearray) -> None:
        self._body = body
        self.at = 0
        self.elements = self._left = 1
        self.finite = True
        self._in_map = False
        self._outer: list[tuple[int, bool]] = []

    def run(self) -> None:
        """Walk to the end. Raises RemoteProtocolError, and IndexError where bytes are missing."""
        body = self._body
        while True:
            while not self._left:
                if not self._outer:
                    return
                self._left, self._in_map = self._outer.pop()
            lead = LEADS[body[self.at]]
            kind = lead.kind
            if self._in_map and not self._left & 1 and kind != "text":
                _broken("a map whose key is no text")
            self._left -= 1
            if kind == "plain":
                self.at += 1 + lead.width
            elif kind == "text":
                self.at += 1 + lead.width + self._amount(lead)
            else:
                STEPS[kind](self, lead)

    def _amount(self, lead: Lead) -> int:
        if not lead.width:
            return lead.amount
        return int.from_bytes(self._body[self.at + 1 : self.at + 1 + lead.width], "big")

    def on_container(self, lead: Lead) -> None:
        in_map = lead.kind == "map"
        amount = self._amount(lead) * (2 if in_map else 1)
        self.at += 1 + lead.width
        self.elements += amount
        if self.elements > ELEMENT_LIMIT:
            _broken(f"a frame of more than {ELEMENT_LIMIT} values (ELEMENT_LIMIT)")
        self._outer.append((self._left, self._in_map))
        if len(self._outer) > DEPTH_LIMIT:
            _broken(f"a frame nested more than {DEPTH_LIMIT} deep (DEPTH_LIMIT)")
        self._left, self._in_map = amount, in_map

    def on_float(self, lead: Lead) -> None:
        first, second = self._body[self.at + 1], self._body[self.at + 2]
        # All bits of the exponent set: infinite, or not a number.
        exponent_end = 0x80 if lead.width == 4 else 0xF0
        if first & 0x7F == 0x7F and second & exponent_end == exponent_end:
            self.finite = False
        self.at += 1 + lead.width

    def on_extension(self, lead: Lead) -> None:
        size = self._amount(lead)
        code = self._body[self.at + 1 + lead.width]
        if code != BIG_INT_EXT:
            _broken(f"an extension of type {code}, which is no JSON-like value")
        self.at += 2 + lead.width + size

    def on_refused(self, _lead: Lead) -> None:
        _broken("bytes, which are no JSON-like value")


# Not an attribute of the walk: bound methods would make it, and the body with it, a cycle that
# stays in memory until the collector happens to run.
STEPS: dict[Kind, Callable[[_Walk, Lead], None]] = {
    "float": _Walk.on_float,
    "list": _Walk.on_container,
    "map": _Walk.on_container,
    "extension": _Walk.on_extension,
    "refused": _Walk.on_refused,
}


def scan(body: bytes | bytearray) -> Shape:
    """The shape of a frame's body. Raises RemoteProtocolError for one that may not be decoded."""
    walk = _Walk(body)
    try:
        walk.run()
    except IndexError:
        _broken("a frame whose last value is cut off")
    if walk.at != len(body):
        _broken(f"a frame whose message ends at byte {walk.at} of {len(body)}")
    return Shape(walk.elements, walk.finite)
