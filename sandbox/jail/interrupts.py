"""When a KeyboardInterrupt may be raised: never while a frame is half done.

Python runs signal handlers in the main thread, between two of its instructions. So a plain
counter of that thread is enough: above zero the interrupt is kept for later.
"""

from __future__ import annotations

import _thread
import signal

TYPE_CHECKING = False  # importing typing would double the time to start
if TYPE_CHECKING:
    from types import FrameType, TracebackType

_main = _thread.get_ident()


class Shield:
    """``with shield:`` around protocol code; ``with shield.lowered:`` around its waits.

    In threads other than the main one it does nothing: they get no interrupts.
    """

    def __init__(self) -> None:
        self.in_cell = False
        self.reason = "interrupted"
        self.lowered = _Lowered(self)
        self.depth = 0
        self.pending = False
        signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if not self.in_cell:
            return
        if self.depth:
            self.pending = True
        else:
            raise KeyboardInterrupt(self.reason)

    def __enter__(self) -> None:
        if _thread.get_ident() == _main:
            self.depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None
    ) -> None:
        if _thread.get_ident() != _main:
            return
        # Never below zero: an interrupt may have been raised while the shield was lowered.
        self.depth = max(0, self.depth - 1)
        if self.pending and not self.depth:
            self.pending = False
            raise KeyboardInterrupt(self.reason)


class _Lowered:
    """The shield taken down for a wait that may be interrupted."""

    def __init__(self, shield: Shield) -> None:
        self._shield = shield
        self._depth = 0

    def __enter__(self) -> None:
        shield = self._shield
        if _thread.get_ident() == _main:
            self._depth, shield.depth = shield.depth, 0
            if shield.pending:
                shield.pending, shield.depth = False, self._depth
                raise KeyboardInterrupt(shield.reason)

    def __exit__(self, *_: object) -> None:
        if _thread.get_ident() == _main:
            self._shield.depth = self._depth
