"""The turn loop: prompt → reply → cells → output → … → FINAL."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from distill.models import ModelHandler, Usage, check_response, model_name
from distill.supervisor.driver import Driver, in_thread
from distill.supervisor.history import told
from distill.supervisor.reply import read_reply, without_thinking
from distill.supervisor.run_log import RunLog
from distill.supervisor.standing import Standing
from distill.supervisor.text import clip, printable
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
NOT_YET = "No new jail could be started yet: if more is lost than this cell, the next one says so."
VARIABLES_SHOWN = 30
TRACEBACK_CHARS = 2000


class Cells(Protocol):
    """What the loop needs of a REPL (``distill.repl.REPL`` and its subclasses)."""

    def execute(self, code: str) -> Any:
        """Run one cell; returns an ExecResult."""


@dataclass(slots=True)
class Turns:
    """How a run stands: what the display shows and the result is made of."""

    status: Status = "unanswered"
    answer: Any = None
    iterations: int = 0
    usage: Usage = field(default_factory=Usage)
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
        self._log.turn = self.turns.iterations + 1
        self._add("user", LAST)
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
            self._add("user", self._with_nudge(NO_CODE.format(problem=reply.problem), turn))
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
        self._add("user", self._with_nudge("\n\n".join(shown), turn))
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

    def _with_nudge(self, text: str, turn: int) -> str:
        left = self._max_iterations - turn
        if left > 2 or left == 0:
            return text
        return f"{text}\n\n{NUDGE.format(left='1 turn' if left == 1 else f'{left} turns')}"


def token_usage(usage: Usage) -> records.TokenUsage:
    """A Usage as it is logged."""
    return records.TokenUsage(
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
    )


def cell_fields(turn: int, code: str, result: Any) -> dict[str, Any]:
    """The fields of a cell's record."""
    error = result.error
    if result.lost is not None:
        status = "final" if result.is_final else "lost"
    else:
        status = "final" if result.is_final else "ok" if error is None else "error"
    return {
        "turn": turn,
        "cell": result.cell,
        "code": code,
        "status": status,
        "stdout": result.full_stdout,
        "stderr": result.full_stderr,
        "elapsed_s": result.elapsed,
        "cpu_s": result.cpu_s,
        "error": error
        and records.CellFailure(error.name, error.message, error.traceback, error.line),
        "lost": result.lost,
        "variables": tuple(
            records.Variable(name, v.type, v.repr, v.size) for name, v in result.variables.items()
        ),
        "dropped_bytes": result.dropped_bytes,
        "interrupted": result.interrupted,
        "live_threads": result.live_threads,
        "blocked": result.blocked,
        "spent_s": result.spent_s,
        "restored": result.restored,
    }


def render(result: Any) -> str:
    """A cell's outcome as the supervisor model sees it."""
    parts = [f"[cell {result.cell}, {result.elapsed:.1f} s]"]
    if result.stdout:
        parts.append(result.stdout.rstrip("\n"))
    if result.stderr:
        parts.append(f"stderr:\n{result.stderr.rstrip()}")
    if result.error is not None:
        parts.append(clip(result.error.traceback.rstrip(), TRACEBACK_CHARS))
    if result.lost is not None:
        parts.append(f"The cell was killed: {result.lost}.")
        parts.append(told(result.restored) if result.restored is not None else NOT_YET)
    if len(parts) == 1:
        parts.append("(no output)")
    if result.variables:
        parts.append(f"Names: {describe_variables(result.variables)}")
    return "\n".join(parts)


def describe_variables(variables: Any) -> str:
    """Names with their types and sizes, the first VARIABLES_SHOWN of them; modules left out."""
    values = [(name, v) for name, v in variables.items() if v.type != "module"]
    described = [
        f"{name}: {v.type}" + (f"[{v.size}]" if v.size is not None else "")
        for name, v in values[:VARIABLES_SHOWN]
    ]
    more = len(values) - VARIABLES_SHOWN
    return ", ".join(described) + (f" and {more} more" if more > 0 else "")
