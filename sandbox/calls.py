"""The host calls of one jail: which are open, and whether one more may be made."""

from collections.abc import Iterable

from distill.protocol.errors import RemoteProtocolError
from distill.protocol.jail_link import (
    ELEMENT_LIMIT,
    FRAME_LIMIT_BYTES,
    Call,
    Final,
    Limits,
)
from distill.sandbox.intake import Heard
from distill.sandbox.jail.limits import told

FINAL = "FINAL"
"""Given like a function, but called by a message of its own."""


class Calls:
    """Numbers only grow: a call that was answered can't be asked, or answered, again.

    The driver holds what open calls carry until it answers, so all of them together may be
    no more than one frame may be.
    """

    def __init__(self, limits: Limits, functions: Iterable[str]) -> None:
        self._limits = limits
        self._functions = frozenset(functions) - {FINAL}
        self._open: dict[int, tuple[int, int]] = {}
        """Each open call's size: bytes, values."""
        self._last = 0
        self._made = {Call: 0, Final: 0}

    def end_cell(self) -> None:
        """Nothing of this cell is answered any more; the next one has its whole allowance."""
        self._open.clear()
        self._made = {Call: 0, Final: 0}

    def ask(self, message: Call | Final, heard: Heard) -> str | None:
        """Note a call; the limit that forbids it, if one does.

        Raises RemoteProtocolError for what an honest interpreter never sends.
        """
        if message.call <= self._last:
            raise RemoteProtocolError(f"call {message.call} is not new", peer="jail")
        if isinstance(message, Call) and message.function not in self._functions:
            raise RemoteProtocolError("a call of a function that it was not given", peer="jail")
        self._last = message.call
        self._open[message.call] = heard.size_bytes, heard.elements
        self._made[type(message)] += 1
        limits = self._limits
        if len(self._open) > limits.calls_in_flight:
            limit = told("calls_in_flight", limits.calls_in_flight)
            raise RemoteProtocolError(f"{len(self._open)} calls in flight {limit}", peer="jail")
        if heard.size_bytes > limits.call_bytes:
            return f"a call of {heard.size_bytes} bytes {told('call_bytes', limits.call_bytes)}"
        if self._made[type(message)] > limits.calls_per_cell:
            return f"one call too many in this cell {told('calls_per_cell', limits.calls_per_cell)}"
        return self._too_much_together()

    def _too_much_together(self) -> str | None:
        open_bytes, open_values = map(sum, zip(*self._open.values(), strict=True))
        if open_values > ELEMENT_LIMIT:
            return f"the limit of values in all open calls together is {ELEMENT_LIMIT}"
        if open_bytes > FRAME_LIMIT_BYTES:
            return f"the limit of bytes in all open calls together is {FRAME_LIMIT_BYTES}"
        return None

    def is_open(self, call: int) -> bool:
        """Whether this call waits for its answer."""
        return call in self._open

    def answer(self, call: int) -> bool:
        """Note an answer; whether no call is open any more."""
        self._open.pop(call, None)
        return not self._open
