"""The turn loop: prompt → reply → cells → output → … → FINAL."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distill.errors import BudgetError, ModelError, SandboxError
from distill.models import LMResponse, ModelHandler, Usage, check_response, model_name
from distill.supervisor.cell_text import Cells, cell_fields
from distill.supervisor.conversation import Conversation
from distill.supervisor.dialects import Dialect
from distill.supervisor.driver import Driver, in_thread
from distill.supervisor.heard import Heard
from distill.supervisor.reply import Said, without_thinking
from distill.supervisor.run_log import RunLog
from distill.supervisor.standing import Standing
from distill.supervisor.text import clip, printable
from distill.supervisor.turn_budget import TurnBudget
from distill.supervisor.window import asked
from distill.traces import records

Status = Literal["final", "forced", "unanswered"]

REFUSALS = 3
"""Replies in a row that a model or its endpoint refuses; then the run fails, to be gone on with."""


@dataclass(slots=True)
class Turns:
    """How a run stands: what the display shows and the result is made of."""

    status: Status = "unanswered"
    answer: Any = None
    iterations: int = 0
    ended_by: str | None = None
    """The budget that ended it, a field of ``distill.Budget``; None: none did."""
    usage: Usage = field(default_factory=Usage)
    heard: Heard = field(default_factory=Heard)
    """The reply that is being written."""
    problem: str | None = None
    """Why the answer is not all that was asked for."""


class TurnLoop:
    """One run's conversation with its supervisor model, at most ``max_iterations`` turns."""

    def __init__(
        self,
        driver: Driver,
        supervisor: ModelHandler,
        repl: Cells,
        log: RunLog,
        *,
        dialect: Dialect,
        max_iterations: int,
        budget: TurnBudget,
        on_progress: Callable[[], None] = lambda: None,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        self._driver = driver
        self._supervisor = supervisor
        self._repl = repl
        self._log = log
        self._dialect = dialect
        self._max_iterations = max_iterations
        self._budget = budget
        self._on_progress = on_progress
        self._conversation = Conversation(log)
        self._variables: Mapping[str, Any] = {}
        """The names in the REPL after the last cell."""
        self._refusals = 0
        self.turns = Turns(heard=Heard(driver.loop, on_progress, on_text))

    @property
    def _messages(self) -> list[dict[str, str]]:
        """What the next request has."""
        return self._conversation.request()

    async def run(
        self, messages: Sequence[dict[str, str]], standing: Standing | None = None
    ) -> Turns:
        """Work until FINAL or the last turn, from the start or from where a run stood.

        Raises ModelError, SandboxError.
        """
        for message in messages:
            self._add(message["role"], message["content"])
        try:
            await self._work(standing)
        except BudgetError as error:  # not even a last turn is left
            self.turns.ended_by = error.budget
        return self.turns

    async def _work(self, standing: Standing | None) -> None:
        if standing is not None and await self._take_up(standing):
            return
        if standing is None or standing.reply is None:
            self._plan(self.turns.iterations)
            if self.turns.ended_by is not None:
                self._add("user", *self._closing(self.turns.iterations))
        for turn in range(self.turns.iterations + 1, self._max_iterations + 1):
            if self.turns.ended_by is not None:
                break
            self._log.turn = self.turns.iterations = turn
            self._on_progress()
            if (said := await self._covered_reply(turn)) is not None and await self._turn(
                turn, said
            ):
                return
        await self._force(await self._reply(forced=True))

    async def _covered_reply(self, turn: int) -> Said | None:
        """The reply of this turn. None: a try was lost, and only a last turn is covered now."""
        try:
            return await self._reply(forced=False)
        except BudgetError as why:
            if why.budget == "wall_s":
                raise
            self.turns.ended_by, self.turns.iterations = why.budget, turn - 1
            self._add("user", *self._closing(turn - 1))
            return None

    async def _take_up(self, standing: Standing) -> bool:
        """Go on where the run stood; whether it has its answer, or its last word, now."""
        self._conversation.take_up(standing.messages, standing.compactions, standing.counted)
        self._variables = standing.variables
        self.turns.usage = standing.usage
        self._log.turn = self.turns.iterations = standing.turn
        if standing.final is not None:
            self.turns.status, self.turns.answer = "final", standing.final.value
            return True
        if standing.asked_last:
            self._plan(self.turns.iterations)
            self.turns.ended_by = self.turns.ended_by or "turns"
            self.turns.iterations -= standing.reply is not None
            self._log.turn = self.turns.iterations + 1
            said = standing.reply
            await self._force(said or await self._reply(forced=True), standing.cells)
            return True
        if standing.reply is None:
            return False
        return await self._turn(standing.turn, standing.reply, standing.cells)

    async def prelude(self) -> None:
        """Make the dialect's names, before the first turn. Raises SandboxError."""
        if not self._dialect.prelude:
            return
        result = await self._cell(self._dialect.prelude)
        if result.error is not None or result.lost is not None:
            why = result.lost or result.error.message
            raise SandboxError(f"the prelude of the dialect {self._dialect.name} failed: {why}")

    def _add(self, role: str, content: str) -> None:
        self._conversation.add(role, content)

    async def _turn(self, turn: int, said: Said, done: Sequence[Any] = ()) -> bool:
        """A reply's cells, the first of which may be done; whether the run has its answer."""
        reply = self._dialect.read(said)
        if not reply.blocks:
            self._say(turn, self._dialect.no_code.format(problem=reply.problem))
            return False
        results = []
        for position, code in enumerate(reply.blocks):
            result = done[position] if position < len(done) else await self._cell(code)
            if result.is_final:
                return self._final(result)
            results.append(result)
            if result.error is not None or result.lost is not None:
                break
        self._say(turn, *self._dialect.shown(results, len(reply.blocks)), *reply.notes)
        return False

    async def _force(self, said: Said, done: Sequence[Any] = ()) -> None:
        """The last reply, which is the answer whatever it is, but for a refusal."""
        blocks = self._dialect.read(said).blocks
        for position, code in enumerate(blocks):
            result = done[position] if position < len(done) else await self._cell(code)
            if result.is_final:
                self._final(result)
                return
        plain = without_thinking(said.text).strip()
        if plain and not blocks and not said.is_refusal:
            self.turns.status, self.turns.answer = "forced", plain

    async def _reply(self, *, forced: bool) -> Said:
        """Ask for the next reply, and log it. Raises ModelError, BudgetError."""
        if forced:
            self._budget.plan_last(self._messages)
        window_tokens = self._supervisor.window_tokens
        response = await asked(self._conversation, self._ask, window_tokens, self._variables)
        said = Said.of(check_response(self._supervisor, response))
        self._budget.replied(response)
        self.turns.usage += response.usage
        blocks = self._dialect.read(said).blocks
        self._conversation.add_reply(
            said.text,
            **self._turn_fields(response, said),
            cells=len(blocks),
            forced=forced,
        )
        self.turns.heard.end()
        self._count_refusals(said, is_one=said.is_refusal and not blocks)
        return said

    async def _ask(self, messages: list[dict[str, str]]) -> LMResponse:
        """What the model replies to these messages, while it is heard."""
        chat = self.turns.heard.by(self._supervisor.chat)
        call = functools.partial(chat, messages, **self._budget.options)
        reply: LMResponse = await self._budget.in_time(in_thread(self._driver, call))
        return reply

    def _turn_fields(self, response: LMResponse, said: Said) -> dict[str, Any]:
        """The fields of a turn's record."""
        return {
            "model": response.model or model_name(self._supervisor),
            "usage": token_usage(response.usage),
            "elapsed_s": response.elapsed,
            "attempt": response.attempts,
            "queue_s": response.waited_s,
            "prompt_token_ids": response.prompt_token_ids,
            "token_ids": response.token_ids,
            "logprobs": response.logprobs,
            "gpu_s": response.gpu_s,
            "device": response.card.device if response.card is not None else "",
            "finish_reason": printable(said.finish_reason),
            "refused": said.refused,
            "tool_calls": len(response.tool_calls),
            "reasoning": printable(response.reasoning),
        }

    def _count_refusals(self, said: Said, *, is_one: bool) -> None:
        """Raises ModelError: it goes on refusing, and more turns would only cost."""
        self._refusals = self._refusals + 1 if is_one else 0
        if self._refusals >= REFUSALS:
            raise ModelError(
                f"{model_name(self._supervisor)} has refused {REFUSALS} times in a row "
                f"({said.finish_reason}: {clip(said.text, 200) or 'nothing said'}); go on with "
                "another supervisor (--resume RUN --supervisor MODEL)"
            )

    async def _cell(self, code: str) -> Any:
        result = await in_thread(self._driver, self._repl.execute, code)
        self._log.write(records.Cell, **cell_fields(self._log.turn, code, result))
        self._variables = result.variables
        return result

    def _final(self, result: Any) -> bool:
        self.turns.status, self.turns.answer = "final", result.answer
        return True

    def _say(self, turn: int, *parts: str) -> None:
        """Tell the model what came of its reply; every message after the opening is made here.

        After the last turn it asks for the answer, and belongs to the reply that gives it.
        """
        self._plan(turn, *parts)
        if self._dialect.turn_apart and self.turns.ended_by is None:
            self._add("user", "\n\n".join(parts))
            parts = ()
        self._add("user", "\n\n".join((*parts, *self._closing(turn))))

    def _plan(self, turn: int, *parts: str) -> None:
        """Put aside what the turn after this one takes, or find out which budget has ended them."""
        if (why := self._budget.plan(self._messages, *parts)) is not None:
            self.turns.ended_by = why.budget
        elif turn >= self._max_iterations:
            self.turns.ended_by = "turns"
        if self.turns.ended_by is not None:
            self._log.turn = turn + 1

    def _closing(self, turn: int) -> list[str]:
        """What the model is told at the end of the message that follows its reply of this turn."""
        ended_by = self.turns.ended_by
        closing = self._dialect.closing(turn, self._max_iterations, ended_by)
        line = self._budget.line() if ended_by is None else ""
        return [*closing, line] if line else closing


def token_usage(usage: Usage) -> records.TokenUsage:
    """A Usage as it is logged."""
    return records.TokenUsage(
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
    )
