"""Calls from a jail's cell to functions of this side: who calls, what is logged, what fails."""

import contextvars
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from distill.errors import SubRunError, WorkerBatchError, WorkerBudgetError, WorkerError
from distill.primitives import BudgetSpentError
from distill.protocol.codec import DRIVER_TO_KEEPER
from distill.protocol.jail_link import CallError
from distill.protocol.sandbox_link import CallReply, HostCall
from distill.supervisor.driver import Driver, in_thread
from distill.supervisor.ledger import Answer, Ledger, call_key
from distill.supervisor.spares import Spares
from distill.supervisor.text import clip, printable

DETAIL_CHARS, ITEM_DETAIL_CHARS = 4000, 1000
"""Of the reason why a call failed, or an item of a batch, in the error that the cell is raised."""


@dataclass(slots=True)
class HostCallRecord:
    """One host function call, exact both ways, for the log. ``key`` is ``ledger.call_key``.

    ``value`` beside an ``error`` is what that carries (``carried``). ``reused``: the value is what
    an equal call of a failed cell had got. ``replays``: the cell and call of a recorded run that
    had got what this one gets.
    """

    cell: int
    call: int
    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    elapsed_s: float
    value: Any = None
    error: str | None = None
    key: str = ""
    reused: bool = False
    replays: tuple[int, int] | None = None


CURRENT_CALL: contextvars.ContextVar[HostCallRecord] = contextvars.ContextVar("CURRENT_CALL")
"""The call on whose behalf a host function runs."""


def call_error(error: Exception) -> CallError:
    if isinstance(error, RecordedError):
        return error.error
    detail = clip(printable(str(error)), DETAIL_CHARS)
    if isinstance(error, WorkerBatchError):
        short = isinstance(error, WorkerBudgetError)
        name: Any = "WorkerBudgetError" if short else "WorkerBatchError"
        reasons = {
            index: clip(printable(str(each)), ITEM_DETAIL_CHARS)
            for index, each in error.errors.items()
        }
        return CallError(name, detail, tuple(error.answers), reasons)
    if isinstance(error, SubRunError):
        return CallError("SubRunError", detail, tuple(error.answers), error.errors)
    if isinstance(error, BudgetSpentError):
        return CallError("LimitError", detail)
    if isinstance(error, WorkerError):
        return CallError("WorkerError", detail)
    return CallError("PrimitiveError", f"{printable(type(error).__name__)}: {detail}")


def told(error: CallError) -> str:
    """The error as a record tells it."""
    return error.detail if error.name == "PrimitiveError" else f"{error.name}: {error.detail}"


def carried(error: CallError) -> dict[str, Any] | None:
    """The answers and reasons that an error carries, as JSON has them."""
    if not error.answers:
        return None
    reasons = {str(index): reason for index, reason in (error.errors or {}).items()}
    return {"answers": list(error.answers), "errors": reasons}


def is_json(value: Any, depth: int = 0) -> bool:
    """Whether a value is None, bool, int, float, str, or lists and str-keyed dicts of such."""
    if depth > 100:
        return False
    if isinstance(value, dict):
        return all(isinstance(k, str) and is_json(v, depth + 1) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(is_json(item, depth + 1) for item in value)
    return (
        value is None
        or isinstance(value, str | bool | int)
        or (isinstance(value, float) and math.isfinite(value))
    )


class RecordedError(Exception):
    """What a recorded run's cell was raised, to be raised once more."""

    def __init__(self, error: CallError) -> None:
        super().__init__(error.detail)
        self.error = error


class Recorded(Protocol):
    """What answers the calls of a run that is done again; ``is_silent``: nothing else does."""

    @property
    def is_silent(self) -> bool: ...

    def refusal(self, cell: int, key: str) -> str | None:
        """Why this answer was refused; None: it was not."""

    def answer(self, cell: int, function: str, key: str) -> Answer | None:
        """What this call had got; None: the function is to be called. Raises LookupError."""


class HostFunctions:
    """The functions of one session: they run here, with hostile arguments, in threads.

    ``ledger`` has what each finished call got, ``spares`` what equal calls may be given
    (``itemised`` functions keep those themselves). ``on_call(record)`` logs a call.
    """

    def __init__(
        self,
        driver: Driver,
        functions: Mapping[str, Callable[..., Any]],
        itemised: frozenset[str],
        on_call: Callable[[HostCallRecord], None],
    ) -> None:
        self._driver = driver
        self._functions = functions
        self._itemised = itemised
        self._on_call = on_call
        self.recording: Recorded | None = None
        """If set, this run is done again."""
        self.ledger = Ledger()
        self.spares: Spares[Answer] = Spares()

    async def answer(self, call: HostCall) -> CallReply:
        """Run the function, whatever comes of it; the reply, once the call is in the log."""
        record = HostCallRecord(call.cell, call.call, call.function, call.args, call.kwargs, 0.0)
        started_s = time.monotonic()
        CURRENT_CALL.set(record)
        try:
            await self._settle(record)
            reply = CallReply(call.jail, call.call, value=record.value)
            DRIVER_TO_KEEPER.encode(reply)
        except Exception as error:  # noqa: BLE001  (a primitive's failure is the cell's to see)
            failure = call_error(error)
            record.value, record.error = carried(failure), told(failure)
            reply = CallReply(call.jail, call.call, error=failure)
        record.elapsed_s = time.monotonic() - started_s
        try:
            self._on_call(record)
        except Exception as error:  # noqa: BLE001  (a full disk: the cell must not wait for ever)
            return CallReply(call.jail, call.call, error=call_error(error))
        answer = Answer(reply.value, reply.error)
        self.ledger.enter(call.cell, record.key, answer)
        if answer.error is None and call.function not in self._itemised:
            self.spares.enter(call.cell, record.key, answer)
        return reply

    async def _settle(self, record: HostCallRecord) -> None:
        """Find the value: one that nothing came of before, or the function's."""
        function = self._functions.get(record.function)
        if function is None:
            raise LookupError(f"there is no function {record.function!r}")
        if not is_json([record.args, record.kwargs]):
            raise TypeError("the arguments are no JSON values")
        record.key = call_key(record.function, record.args, record.kwargs)
        if self._is_replayed(record):
            return
        if (spare := self.spares.take(record.key)) is not None:
            record.value, record.reused = spare.value, True
            return
        value = await in_thread(self._driver, lambda: function(*record.args, **record.kwargs))
        if not is_json(value):
            raise TypeError(
                f"{record.function} returned a {type(value).__name__} that JSON can't hold"
            )
        record.value = value

    def _is_replayed(self, record: HostCallRecord) -> bool:
        """Give the call what a recorded one had got, value or error, if that is wanted."""
        if self.recording is None:
            return False
        answer = self.recording.answer(record.cell, record.function, record.key)
        if answer is None:
            return False
        record.replays, record.value = answer.place, answer.value
        if answer.error is not None:
            raise RecordedError(answer.error)
        return True

    def answer_again(self, call: HostCall) -> CallReply | None:
        """The reply that this call of a finished cell had got; None if it never made it."""
        key = ""
        if call.function in self._functions and is_json([call.args, call.kwargs]):
            key = call_key(call.function, call.args, call.kwargs)
        answer = self.ledger.give(call.cell, key)
        if answer is None:
            return None
        return CallReply(call.jail, call.call, answer.value, answer.error)
