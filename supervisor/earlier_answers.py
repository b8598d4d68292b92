"""Answers that equal calls have got: in a failed cell of this run, or, by the cache, before."""

from collections.abc import Iterable, Iterator, Sequence

from distill.protocol import worker_link as wire
from distill.supervisor.answer_cache import AnswerCache, Known, answer_key
from distill.supervisor.asked import Asked
from distill.supervisor.backends import Backend
from distill.supervisor.call_lines import CallLines
from distill.supervisor.driver import Driver, in_thread
from distill.supervisor.requests import Outcome, request_key
from distill.supervisor.spare_calls import SpareCalls
from distill.traces import records


class EarlierAnswers:
    """Those that the calls of one run may get. On the driver's loop."""

    def __init__(
        self,
        driver: Driver,
        backend: Backend,
        lines: CallLines,
        spares: SpareCalls,
        cache: AnswerCache | None,
    ) -> None:
        self._driver = driver
        self._backend = backend
        self._lines = lines
        self._spares = spares
        self._cache = cache

    async def read(self) -> None:
        """Have what failed cells have left read back from the log; before each ``look_up``."""
        while not self._spares.is_read:
            await in_thread(self._driver, self._spares.read)

    def may_answer(self, asked: Asked) -> bool:
        """Whether there can be any for this call; neither kind has log-probabilities."""
        return not asked.form.logprobs and (bool(self._spares) or self._cache is not None)

    def look_up(
        self, frame: Sequence[wire.Request], asked: Asked
    ) -> tuple[list[wire.Request], list[records.Call]]:
        """The requests without an answer from before, and the log's lines of the others."""
        card = self._backend.card(asked.model)
        unanswered: list[wire.Request] = []
        lines: list[records.Call] = []
        for request in frame:
            item = int(request.id.rpartition(".")[2])
            line = self._line(asked, item, request, card)
            if line is None:
                unanswered.append(request)
            else:
                lines.append(line)
        return unanswered, lines

    def _line(
        self, asked: Asked, item: int, request: wire.Request, card: wire.ModelCard | None
    ) -> records.Call | None:
        if (spare := self._spares.take(request_key(request, asked.model))) is not None:
            return self._lines.reused(asked, item, request, spare)
        if self._cache is None:
            return None
        key = answer_key(request, card, asked.model or self._backend.name)
        known = self._cache.find(key)
        return None if known is None else self._lines.cached(asked, item, request, known)

    def keep(
        self, outcomes: Sequence[tuple[Asked, int, Outcome]], calls: Sequence[records.Call]
    ) -> None:
        """Let the cache have new answers; ``calls`` are their lines."""
        if self._cache is not None:
            self._cache.keep(self._new(outcomes, calls))

    def _new(
        self, outcomes: Iterable[tuple[Asked, int, Outcome]], calls: Iterable[records.Call]
    ) -> Iterator[tuple[str | None, Known]]:
        for (asked, _, outcome), call in zip(outcomes, calls, strict=True):
            request, result = outcome.request, outcome.result
            if isinstance(result, wire.Result):
                key = answer_key(request, outcome.card, asked.model or self._backend.name)
                prompt = wire.seen_text(request, result)
                yield key, Known(prompt, result.text, result.finish_reason, call.model)
