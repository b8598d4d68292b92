"""The reply that a supervisor model is writing, as far as it has come."""

import contextlib
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any

from distill.caller import HEARER

TAIL_CHARS = 60
TOLD_EVERY_S = 0.25


class Heard:
    """What has come of one reply; on the loop, but for ``by``, whose function runs in a thread.

    ``on_progress`` hears at times that there is more; ``on_text`` hears each piece, and an empty
    one where a reply begins, maybe again after a try that failed.
    """

    def __init__(
        self,
        loop: AbstractEventLoop | None = None,
        on_progress: Callable[[], None] = lambda: None,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        self._loop = loop
        self._on_progress = on_progress
        self._on_text = on_text
        self._chars = 0
        self._tail = ""
        self._thinks = False
        self._told_s = 0.0

    def by(self, chat: Callable[..., Any]) -> Callable[..., Any]:
        """``chat``, such that a handler that streams is heard."""

        def call(*args: Any, **kw: Any) -> Any:
            HEARER.set(self._from_thread)  # the caller runs it in a context of its own
            return chat(*args, **kw)

        return call

    def end(self) -> None:
        """The reply is there."""
        self._chars, self._tail = 0, ""
        self._on_progress()

    def note(self) -> str:
        """One line of what is being written, for people; "" while nothing is."""
        if not self._chars:
            return ""
        doing = "thinking" if self._thinks else "writing"
        return f"{doing}, {self._chars:,} characters: …{' '.join(self._tail.split())}"

    def _from_thread(self, piece: str, thought: bool, /) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody listens
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._on_piece, piece, thought)

    def _on_piece(self, piece: str, thought: bool) -> None:
        if not piece:
            self._chars, self._tail = 0, ""
        self._chars += len(piece)
        self._tail = (self._tail + piece)[-TAIL_CHARS:]
        self._thinks = thought
        if self._on_text is not None and not thought:
            self._on_text(piece)
        if time.monotonic() - self._told_s >= TOLD_EVERY_S:
            self._told_s = time.monotonic()
            self._on_progress()
