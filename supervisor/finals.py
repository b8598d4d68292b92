"""FINAL at the host: the first answer that passes the checks stands, and nothing changes it."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from distill.protocol.jail_link import CallError
from distill.protocol.sandbox_link import FinalAnswer
from distill.supervisor.driver import Driver, in_thread
from distill.supervisor.host_calls import HostCallRecord, HostFunctions, is_json
from distill.supervisor.ledger import Answer, call_key
from distill.supervisor.text import printable

FINAL = "FINAL"
CHECK_S = 120.0
"""How long a check may take. A thread can't be ended: one that takes longer goes on unheard."""
TOO_LONG = f"its check took longer than {CHECK_S:.0f} s"
UNCHECKED = "it can't be checked: {}: {}"
REFUSALS_PER_CELL = 20
"""A cell that guesses costs no turn: after so many its answers are refused unseen."""
LOGGED_CHARS = 100_000
"""A refused value that is longer as JSON is not in the log."""


class Finals:
    """The FINALs of one session. All methods are called on the driver's loop.

    ``on_final(cell, value)`` records the answer, ``on_call(record)`` one that was refused.
    """

    def __init__(
        self,
        driver: Driver,
        functions: HostFunctions,
        on_final: Callable[[int, Any], None],
        on_call: Callable[[HostCallRecord], None],
    ) -> None:
        self._driver = driver
        self._functions = functions
        self._on_final = on_final
        self._on_call = on_call
        self._one_at_a_time = asyncio.Lock()
        self._refused: Counter[int] = Counter()
        self._ended = 0
        self.has_answer = False
        self.check: Callable[[Any], str | None] | None = None
        """Says, in a thread, why a value is no answer; None: it is one."""

    async def settle(self, final: FinalAnswer) -> CallError | None:
        """Record the answer; the error that its cell is raised if it was refused."""
        if not is_json(final.value):
            return CallError("FinalError", "FINAL takes JSON-like values only")
        async with self._one_at_a_time:
            if self.has_answer:
                return None
            if final.cell <= self._ended:
                return CallError("FinalError", "its cell has ended")
            started_s = time.monotonic()
            key = call_key(FINAL, (final.value,), {})
            problem = await self._problem(final, key)
            try:
                if problem is None:
                    self._on_final(final.cell, final.value)
                    self.has_answer = True
                    return None
                return self._refuse(final, key, problem, time.monotonic() - started_s)
            except OSError as failure:
                return CallError("FinalError", f"the answer can't be logged: {failure}")

    async def settled(self, cell: int) -> None:
        """Wait for the one that is being checked: a jail may die meanwhile, and its answer stand.

        Those of this cell that wait their turn are refused unseen.
        """
        self._ended = max(self._ended, cell)
        async with self._one_at_a_time:
            pass

    def settle_again(self, final: FinalAnswer) -> CallError | None:
        """What this FINAL of a finished cell had got."""
        if not is_json(final.value):
            return CallError("FinalError", "FINAL takes JSON-like values only")
        key = call_key(FINAL, (final.value,), {})
        answer = self._functions.ledger.give(final.cell, key)
        return None if answer is None else answer.error

    async def _problem(self, final: FinalAnswer, key: str) -> str | None:
        recording = self._functions.recording
        if recording is not None and recording.is_silent:
            return recording.refusal(final.cell, key)
        if self.check is None:
            return None
        if self._refused[final.cell] >= REFUSALS_PER_CELL:
            return (
                f"{REFUSALS_PER_CELL} answers of this cell were refused: no more of it are looked "
                "at. End the cell, and find out what is wrong"
            )
        try:
            checked = in_thread(self._driver, self.check, final.value)
            problem = await asyncio.wait_for(checked, CHECK_S)
        except TimeoutError:
            problem = TOO_LONG
        except Exception as error:  # noqa: BLE001  (an answer that can't be checked is none)
            problem = UNCHECKED.format(type(error).__name__, error)
        return None if problem is None else f"the answer was refused: {printable(problem)}"

    def _refuse(self, final: FinalAnswer, key: str, problem: str, elapsed_s: float) -> CallError:
        """Log it, so that the cell gets the same when it is run again."""
        self._refused[final.cell] += 1
        error = CallError("FinalError", problem)
        is_short = len(json.dumps(final.value)) <= LOGGED_CHARS
        self._on_call(
            HostCallRecord(
                final.cell,
                final.call,
                FINAL,
                (final.value,) if is_short else (),
                {},
                elapsed_s,
                error=f"{error.name}: {error.detail}",
                key=key,
            )
        )
        self._functions.ledger.enter(final.cell, key, Answer(error=error))
        return error
