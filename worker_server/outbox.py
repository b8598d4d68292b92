"""Results gathered into frames: what finishes together travels together."""

import asyncio
from collections.abc import Callable

from distill.protocol.errors import LocalProtocolError
from distill.protocol.worker_link import BATCH_BYTES, BATCH_REQUESTS, Failure, Result, Results

FLUSH_AFTER_S = 0.002
"""Answers of one engine step reach the loop within this; a lone answer waits no longer."""


class Outbox:
    """Collects results and sends them at 64, at about 1 MiB, or after 2 ms."""

    def __init__(self, send: Callable[[Results], None]) -> None:
        self._send = send
        self._waiting: list[Result | Failure] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, result: Result | Failure) -> None:
        """Take one result; belongs to the event loop."""
        self._waiting.append(result)
        self._bytes += _size_bytes(result)
        if len(self._waiting) >= BATCH_REQUESTS or self._bytes >= BATCH_BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_AFTER_S, self.flush)

    def flush(self) -> None:
        """Send all that waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting, self._bytes = tuple(self._waiting), [], 0
        if not batch:
            return
        try:
            self._send(Results(results=batch))
        except LocalProtocolError:
            # One of them has no wire form or is too large: it must not take the others along.
            for result in batch:
                self._send_alone(result)

    def _send_alone(self, result: Result | Failure) -> None:
        try:
            self._send(Results(results=(result,)))
        except LocalProtocolError as error:
            detail = f"the answer can't be sent: {error}"[:4000]
            self._send(Results(results=(Failure(result.id, result.attempt, "engine", detail),)))


def _size_bytes(result: Result | Failure) -> int:
    """About the size on the wire: enough to bound a frame."""
    if isinstance(result, Failure):
        return 100 + len(result.detail)
    ids_bytes = len(result.prompt_token_ids or b"") + len(result.token_ids or b"")
    chars = len(result.text) + len(result.prompt or "") + len(result.before) + len(result.after)
    return 200 + chars + ids_bytes + 9 * len(result.logprobs or ())
