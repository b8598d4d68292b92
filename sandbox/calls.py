"""The host calls of one jail: which are open, and whether one more may be made."""

from distill.protocol.errors import RemoteProtocolError
from distill.protocol.jail_link import ELEMENT_LIMIT, Call, Final, Limits
from distill.sandbox.jail.limits import told


class Calls:
    """Numbers only grow: a call that was answered can't be asked, or answered, again."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: dict[int, int] = {}
        """Each open call's number of values: the driver holds them until it answers."""
        self._last = 0
        self._in_cell = 0

    def start_cell(self) -> None:
        """A new cell has its whole allowance; nothing of the last one is answered any more."""
        self._open.clear()
        self._in_cell = 0

    def ask(self, message: Call | Final, size_bytes: int, elements: int) -> str | None:
        """Note a call; the limit that forbids it, if one does.

        Raises RemoteProtocolError for what an honest interpreter never sends.
        """
        if message.call <= self._last:
            raise RemoteProtocolError(f"call {message.call} is not new", peer="jail")
        self._last = message.call
        self._open[message.call] = elements
        limits = self._limits
        if len(self._open) > limits.calls_in_flight:
            limit = told("calls_in_flight", limits.calls_in_flight)
            raise RemoteProtocolError(f"{len(self._open)} calls in flight {limit}", peer="jail")
        self._in_cell += isinstance(message, Call)
        if size_bytes > limits.call_bytes:
            return f"a call of {size_bytes} bytes {told('call_bytes', limits.call_bytes)}"
        if sum(self._open.values()) > ELEMENT_LIMIT:
            return f"the limit of values in all open calls together is {ELEMENT_LIMIT}"
        if self._in_cell > limits.calls_per_cell:
            return f"one call too many in this cell {told('calls_per_cell', limits.calls_per_cell)}"
        return None

    def is_open(self, call: int) -> bool:
        """Whether this call waits for its answer."""
        return call in self._open

    def answer(self, call: int) -> bool:
        """Note an answer; whether no call is open any more."""
        self._open.pop(call, None)
        return not self._open
