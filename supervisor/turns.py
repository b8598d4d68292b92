"""The turn loop: prompt → reply → cells → output → … → FINAL."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distill.models import ModelHandler, Usage, check_response, model_name
from distill.supervisor.cell_text import Cells, cell_fields, render
from distill.supervisor.driver import Driver, in_thread
from distill.supervisor.reply import read_reply, without_thinking
from distill.supervisor.run_log import RunLog
from distill.supervisor.standing import Standing
from distill.supervisor.text import printable
from distill.traces import records

Status = Literal["final", "forced", "unanswered"]

NO_CODE = """\
{problem} Nothing was run. Write Python in a fenced block:
```repl
print(len(context))
```
or, if you know the answer, call FINAL(answer) in one."""
NUDGE = "You have {left} left. Call FINAL(answer) with the best answer you have by then."
LAST = """\
There are no turns left. Reply now with the final answer only: either one fenced block that \
calls FINAL(answer), or the answer as plain text."""


@dataclass(slots=True)
class Turns:
    """How a run stands: what the display shows and the result is made of."""

    status: Status = "unanswered"
    answer: Any = None
    iterations: int = 0
    usage: Usage = field(default_factory=Usage)


class TurnLoop:
    """One run's conversation with its supervisor model, at most ``max_iterations`` turns."""

    def __init__(
        self,
        driver: Driver,
        supervisor: ModelHandler,
        repl: Cells,
        log: RunLog,
        *,
        max_iterations: int,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._driver = driver
        self._supervisor = supervisor
        self._repl = repl
        self._log = log
        self._max_iterations = max_iterations
        self._on_progress = on_progress
        self._messages: list[dict[str, str]] = []
        self.turns = Turns()

    async def run(
        self, messages: Sequence[dict[str, str]], standing: Standing | None = None
    ) -> Turns:
        """Work until FINAL or the last turn, from the start or from where a run stood.

        Raises ModelError, SandboxError.
        """
        for message in messages:
            self._add(message["role"], message["content"])
        if standing is not None and await self._take_up(standing):
            return self.turns
        for turn in range(self.turns.iterations + 1, self._max_iterations + 1):
            self._log.turn = self.turns.iterations = turn
            self._on_progress()
            if await self._turn(turn, await self._reply(forced=False)):
                return self.turns
        await self._force(await self._reply(forced=True))
        return self.turns

    async def _take_up(self, standing: Standing) -> bool:
        """Go on where the run stood; whether it has its answer, or its last word, now."""
        self._messages = list(standing.messages)
        self.turns.usage = standing.usage
        self._log.turn = self.turns.iterations = standing.turn
        if standing.final is not None:
            self.turns.status, self.turns.answer = "final", standing.final.value
            return True
        if standing.asked_last:
            self.turns.iterations -= standing.reply is not None
            self._log.turn = self.turns.iterations + 1
            await self._force(standing.reply or await self._reply(forced=True), standing.cells)
            return True
        if standing.reply is None:
            return False
        return await self._turn(standing.turn, standing.reply, standing.cells)

    def _add(self, role: str, content: str) -> None:
        self._messages.append({"role": role, "content": content})
        self._log.message(role, content)

    async def _turn(self, turn: int, text: str, done: Sequence[Any] = ()) -> bool:
        """A reply's cells, the first of which may be done; whether the run has its answer."""
        reply = read_reply(text)
        if not reply.blocks:
            self._say(turn, NO_CODE.format(problem=reply.problem))
            return False
        shown = []
        for position, code in enumerate(reply.blocks):
            result = done[position] if position < len(done) else await self._cell(code)
            if result.is_final:
                return self._final(result)
            shown.append(render(result))
            if result.error is not None or result.lost is not None:
                left = len(reply.blocks) - position - 1
                if left:
                    shown.append(f"The {left} block(s) after it did not run.")
                break
        self._say(turn, *shown)
        return False

    async def _force(self, text: str, done: Sequence[Any] = ()) -> None:
        """The last reply, which is the answer whatever it is."""
        for position, code in enumerate(read_reply(text).blocks):
            result = done[position] if position < len(done) else await self._cell(code)
            if result.is_final:
                self._final(result)
                return
        plain = without_thinking(text).strip()
        if plain and not read_reply(text).blocks:
            self.turns.status, self.turns.answer = "forced", plain

    async def _reply(self, *, forced: bool) -> str:
        request_messages = len(self._messages)
        # A copy: a handler that keeps or changes the list must not change the conversation.
        conversation = [dict(message) for message in self._messages]
        response = check_response(
            self._supervisor,
            await in_thread(self._driver, self._supervisor.chat, conversation),
        )
        text = printable(response.text)
        self.turns.usage += response.usage
        self._messages.append({"role": "assistant", "content": text})
        self._log.reply(
            text,
            request_messages=request_messages,
            model=response.model or model_name(self._supervisor),
            usage=token_usage(response.usage),
            elapsed_s=response.elapsed,
            attempt=response.attempts,
            queue_s=response.waited_s,
            prompt_token_ids=response.prompt_token_ids,
            token_ids=response.token_ids,
            logprobs=response.logprobs,
            cells=len(read_reply(text).blocks),
            forced=forced,
        )
        self._on_progress()
        return text

    async def _cell(self, code: str) -> Any:
        result = await in_thread(self._driver, self._repl.execute, code)
        self._log.write(records.Cell, **cell_fields(self._log.turn, code, result))
        return result

    def _final(self, result: Any) -> bool:
        self.turns.status, self.turns.answer = "final", result.answer
        return True

    def _say(self, turn: int, *parts: str) -> None:
        """Tell the model what came of its reply; every message after the opening is made here.

        After the last turn it asks for the answer, and belongs to the reply that gives it.
        """
        if turn >= self._max_iterations:
            self._log.turn = turn + 1
        self._add("user", "\n\n".join((*parts, *self._closing(turn))))

    def _closing(self, turn: int) -> list[str]:
        """What the model is told at the end of the message that follows its reply of this turn."""
        left = self._max_iterations - turn
        if left > 2:
            return []
        if left <= 0:
            return [LAST]
        return [NUDGE.format(left="1 turn" if left == 1 else f"{left} turns")]


def token_usage(usage: Usage) -> records.TokenUsage:
    """A Usage as it is logged."""
    return records.TokenUsage(
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
    )
