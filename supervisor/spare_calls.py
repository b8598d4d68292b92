"""Worker responses that nothing came of: equal calls may use them, once each.

A cell that fails is often written again and asks the same. What its calls had got is read back
from ``worker.jsonl`` then, so a response that nobody may need takes eight bytes until its cell
has ended well.
"""

import threading
from array import array
from collections import defaultdict, deque
from collections.abc import Callable

import msgspec

from distill.supervisor.recorded import line_key
from distill.supervisor.spares import Spares
from distill.traces import records

Read = Callable[[int], bytes]
"""The line of the log that begins at this byte."""


class SpareCalls:
    """By cell while it runs, by ``request_key`` when it has failed. ``recorded`` are those of
    a run that was cut off.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._decode = msgspec.json.Decoder(records.Call).decode
        self._unsettled: defaultdict[int, array[int]] = defaultdict(lambda: array("Q"))
        self._unread: deque[int] = deque()
        self._free: defaultdict[str, deque[int]] = defaultdict(deque)
        self._failed: set[int] = set()
        self._reading = threading.Lock()
        self.recorded: Spares[records.Call] = Spares()

    def enter(self, cell: int, place: int) -> None:
        """The cell got the response of the line at this byte of the log, maybe after its end."""
        if cell in self._failed:
            self._unread.append(place)
        else:
            self._unsettled[cell].append(place)

    def settle(self, cell: int, *, failed: bool) -> None:
        """The cell has ended: if it failed, its responses are free."""
        self.recorded.settle(cell, failed=failed)
        places = self._unsettled.pop(cell, None)
        if failed:
            self._failed.add(cell)
            self._unread.extend(places or ())

    @property
    def is_read(self) -> bool:
        """Whether there is nothing to ``read``, and nobody reads."""
        return not (self._unread or self._reading.locked())

    def read(self) -> None:
        """Find out what the free responses answer. May be called in any thread."""
        with self._reading:
            while self._unread:
                place = self._unread.popleft()
                if (call := self._call(place)) is not None:
                    self._free[line_key(call)].append(place)

    def _call(self, place: int) -> records.Call | None:
        """What can't be read is no spare: the call is made again."""
        try:
            return records.whole(self._decode(self._read(place)))
        except (OSError, msgspec.DecodeError):
            return None

    def __bool__(self) -> bool:
        return bool(self._free or self.recorded)

    def take(self, key: str) -> records.Call | None:
        """A free response to this call, which is then used; None if there is none."""
        free = self._free.get(key)
        if not free:
            return self.recorded.take(key)
        place = free.popleft()
        if not free:
            del self._free[key]
        return self._call(place)
