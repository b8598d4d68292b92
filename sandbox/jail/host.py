"""The names that call the host, and the exceptions that come back.

::

    RuntimeError
    ├── WorkerError             one item failed for good
    │   └── WorkerBatchError    .answers (None where failed), .errors (index → reason)
    │       └── WorkerBudgetError   as well: a budget does not cover the rest of them
    ├── SubRunError             a sub-run gave no answer; of several: as WorkerBatchError
    ├── PrimitiveError          a function that the user added failed
    └── LimitError              a limit of this session is used up
"""

from __future__ import annotations

import _thread
from collections import deque

from distill.sandbox.jail.channel import Channel, ClosedError
from distill.sandbox.jail.output import Printer
from distill.sandbox.jail.wire import check_count, check_finite, to_wire

TYPE_CHECKING = False  # importing typing would double the time to start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from distill.sandbox.jail.wire import Wire

FINAL = "FINAL"


class WorkerError(RuntimeError):
    """A worker could not answer this item."""


class PartlyError(RuntimeError):
    """Some of what was asked for failed; ``answers`` has the others, ``errors`` says why."""

    def __init__(
        self,
        detail: str,
        answers: list[Any] | None = None,
        errors: dict[int, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.answers = answers or []
        self.errors = errors or {}


class WorkerBatchError(PartlyError, WorkerError):
    """Some items of a batch failed; the answers that did arrive are here."""


class WorkerBudgetError(WorkerBatchError):
    """A budget does not cover all items; the answers of the others are here."""


class SubRunError(PartlyError):
    """Sub-runs ended without an answer; those of the others are here."""


class PrimitiveError(RuntimeError):
    """A host function failed."""


class LimitError(RuntimeError):
    """A limit of this session is used up; the message names it and the amount."""


class FinalError(RuntimeError):
    """The host did not take the answer."""


class Finished(BaseException):
    """FINAL was called and the host has the answer: the cell ends here."""


EXCEPTIONS: tuple[type[RuntimeError], ...] = (
    WorkerError,
    WorkerBatchError,
    WorkerBudgetError,
    SubRunError,
    PrimitiveError,
    LimitError,
    FinalError,
)
for _kind in EXCEPTIONS:
    _kind.__module__ = "builtins"  # a traceback says WorkerError, not where we keep it


class Host:
    """Calls to the host while a cell is open, at most ``limit`` in flight."""

    def __init__(self, channel: Channel, printer: Printer, limit: int) -> None:
        self._channel = channel
        self._printer = printer
        self._free = limit
        self._mutex = _thread.allocate_lock()
        self._queue: deque[_thread.LockType] = deque()

    def function(self, name: str) -> Callable[..., Any]:
        """The function that calls the host under this name."""
        if name == FINAL:
            return self._final_function()

        def call(*args: Any, **kwargs: Any) -> Any:
            told = [to_wire(arg, f"{name}(): argument {i + 1}") for i, arg in enumerate(args)]
            named = {key: to_wire(arg, f"{name}(): {key}") for key, arg in kwargs.items()}
            check_count([told, named], f"{name}()")
            return self._ask(
                name, {"type": "Call", "function": name, "args": told, "kwargs": named}
            )

        call.__name__ = call.__qualname__ = name
        call.__doc__ = f"Call the host's {name}; arguments and result are JSON-like values."
        call.__module__ = "builtins"
        return call

    def _final_function(self) -> Callable[[Any], NoReturn]:
        def final(answer: Any) -> NoReturn:
            value = to_wire(answer, "the answer")
            check_finite(value, "the answer")
            check_count([value], "the answer")
            self._ask(FINAL, {"type": "Final", "value": value})
            raise Finished

        final.__name__ = final.__qualname__ = FINAL
        final.__doc__ = "Give the answer, any JSON-like value. The first one counts."
        final.__module__ = "builtins"
        return final

    def _ask(self, name: str, message: Wire) -> Any:
        self._printer.collect()
        self._take_slot()
        try:
            reply = self._channel.ask(message)
        except ClosedError:
            raise RuntimeError(
                f"{name} was called outside a cell: a thread that outlives its cell can't call"
            ) from None
        finally:
            self._give_slot()
        if reply.get("error") is not None:
            raise _exception(reply["error"])
        return reply.get("value")

    def _take_slot(self) -> None:
        with self._mutex:
            if self._free:
                self._free -= 1
                return
            turn = _thread.allocate_lock()
            turn.acquire()
            self._queue.append(turn)
        try:
            turn.acquire()
        except BaseException:
            with self._mutex:
                if turn in self._queue:
                    self._queue.remove(turn)
                    raise
            self._give_slot()  # it was our turn already
            raise

    def _give_slot(self) -> None:
        with self._mutex:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._free += 1


def _exception(error: Wire) -> Exception:
    kind = next((kind for kind in EXCEPTIONS if kind.__name__ == error["name"]), RuntimeError)
    if issubclass(kind, WorkerBatchError | SubRunError):
        return kind(error["detail"], error.get("answers"), error.get("errors"))
    return kind(error["detail"])
