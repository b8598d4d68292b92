"""Who waits for the call that a thread makes, and who hears the reply while it is written."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Protocol


class Waiter(Protocol):
    """What a caller waits on: a future of asyncio's or of concurrent.futures."""

    def cancelled(self) -> bool:
        """Whether it waits no longer."""


class Hearer(Protocol):
    """What hears a reply as it comes, in the thread of the call. It must not block or raise."""

    def __call__(self, piece: str, thought: bool, /) -> None:
        """A piece of the reply, or of what the model thinks before it.

        An empty one: the reply begins, maybe again, after a try that failed.
        """


WAITER: ContextVar[Waiter | None] = ContextVar("distill_waiter", default=None)
"""Set by whoever runs a call in a thread; a call's own threads copy its context."""
LOST_TRY: ContextVar[Callable[[int], bool] | None] = ContextVar("distill_lost_try", default=None)
"""Hears of a try that was sent and never answered, with the tokens that it may have taken, for
which somebody may pay; whether the call may be tried again.
"""
HEARER: ContextVar[Hearer | None] = ContextVar("distill_hearer", default=None)
"""Set for a supervisor's calls, by whoever makes them; a handler that streams tells it."""


def is_gone() -> bool:
    """Whether somebody asked for this call and waits no longer; callable from any thread."""
    waiter = WAITER.get()
    return waiter is not None and waiter.cancelled()
