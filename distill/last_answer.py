"""What is a run's answer where no FINAL passed, and what it quotes."""

import asyncio
import logging
from collections.abc import Sequence

from distill.answers import AnswerRules
from distill.question import Question
from distill.supervisor.driver import Driver, in_thread
from distill.supervisor.evidence import Quotation
from distill.supervisor.finals import CHECK_S, FINAL, TOO_LONG, UNCHECKED
from distill.supervisor.host_calls import HostCallRecord
from distill.supervisor.text import printable
from distill.supervisor.turns import Turns
from distill.traces import records

LOG = logging.getLogger("distill")


class LastAnswer:
    """Of one run: hears what FINAL refuses, and settles the answer when the turns are over."""

    def __init__(
        self, host: Driver, rules: AnswerRules, question: Question, sources: Sequence[str]
    ) -> None:
        self._host, self._rules = host, rules
        self._context, self._sources = question.context, sources
        self._refused: HostCallRecord | records.Primitive | None = None
        """The last answer that FINAL did not take."""

    def note(self, call: HostCallRecord | records.Primitive) -> None:
        """A host call has ended."""
        if call.function == FINAL and call.args:
            self._refused = call

    async def settle(self, turns: Turns) -> tuple[Quotation, ...]:
        """Check an answer that no FINAL has checked; the quotations of what is the answer now."""
        if turns.status == "forced" and self._rules:
            reading = in_thread(self._host, self._rules.read, turns.answer, self._context)
            try:
                turns.answer, turns.problem = await asyncio.wait_for(reading, CHECK_S)
            except TimeoutError:
                turns.problem = TOO_LONG
            except Exception as error:  # noqa: BLE001  (all is spent: it is the answer, unchecked)
                turns.problem = UNCHECKED.format(type(error).__name__, error)
            turns.problem = turns.problem and printable(turns.problem)
        elif turns.status == "unanswered" and self._refused is not None:
            turns.status, turns.answer = "forced", self._refused.args[0]
            turns.problem = (self._refused.error or "").removeprefix("FinalError: ")
        try:
            found: tuple[Quotation, ...] = await in_thread(
                self._host, self._rules.quotations, turns.answer, self._context, self._sources
            )
        except Exception as error:  # noqa: BLE001  (nor do its quotations decide whether there is one)
            LOG.warning("the answer's quotations are not known: %r", error)
            return ()
        return found
