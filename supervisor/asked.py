"""One call of ``worker`` or ``worker_batch`` while it waits for its answers."""

import asyncio
from typing import Any

import msgspec

from distill.errors import WorkerError
from distill.protocol import worker_link as wire
from distill.supervisor.answer_form import AnswerForm
from distill.supervisor.host_calls import HostCallRecord

_OPEN: Any = object()


class Asked:
    """Who asked what: an answer, or a WorkerError, comes for each item, once.

    ``sampling`` is as the log tells it; ``model`` is the one that was named, if any; ``form`` is
    how the cell wants its answers.
    """

    __slots__ = (
        "_left",
        "all_answered",
        "answers",
        "call",
        "cell",
        "form",
        "function",
        "model",
        "sampling",
    )

    def __init__(
        self,
        caller: HostCallRecord,
        function: str,
        items: int,
        *,
        sampling: dict[str, Any],
        model: str | None,
        form: AnswerForm,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.cell, self.call, self.function = caller.cell, caller.call, function
        self.sampling, self.model, self.form = sampling, model, form
        self.answers: list[Any] = [_OPEN] * items
        self._left = items
        self.all_answered: asyncio.Future[None] = loop.create_future()
        if not items:
            self.all_answered.set_result(None)

    def waits_for(self, item: int) -> bool:
        """Whether this item has no answer yet."""
        return self.answers[item] is _OPEN

    def settle(self, item: int, answer: Any) -> None:
        """An open item's answer: what its form says, or a WorkerError."""
        self.answers[item] = answer
        self._left -= 1
        if not self._left and not self.all_answered.done():
            self.all_answered.set_result(None)

    def settle_all(self, answer: WorkerError) -> None:
        """Give every open item this answer."""
        for item in range(len(self.answers)):
            if self.waits_for(item):
                self.settle(item, answer)


def logged_sampling(sampling: wire.Sampling, record: str, model: str | None) -> dict[str, Any]:
    """Sampling parameters as a line of the log has them."""
    logged = {**msgspec.to_builtins(sampling), "record": record}
    return logged if model is None else {**logged, "model": model}
