"""What a run would ask and cost, before anything is spent: no engine is started, nothing is sent.

::

    recipe       its code runs in a real jail, and its worker calls are counted instead of sent
    any other    the first messages are measured; what follows is assumed, and said so
"""

import asyncio
import contextlib
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distill.budget import Budget, amount, counted
from distill.errors import DistillError, InputError, ModelError
from distill.models import LMResponse, Messages, ModelHandler, model_name
from distill.orchestrator import answer_on_loop
from distill.prices import Price, Prices, price_table
from distill.protocol import worker_link as wire
from distill.question import check_question
from distill.run_repl import UNKNOWN_WINDOW_TOKENS
from distill.spending import settled
from distill.supervisor import background, dialects
from distill.supervisor.backends import Backend
from distill.supervisor.recipe import RecipeHandler
from distill.supervisor.requests import Outcome, Submission, frames, text_of
from distill.supervisors import RecordedSupervisor, supervisor_from
from distill.token_estimate import CHARS_PER_TOKEN, prompt_tokens
from distill.traces import records

REPLY_TOKENS = 1_000
"""What a supervisor's reply is taken to have, its reasoning included."""
SHOWN = (
    *("worker_options", "limits", "sandbox", "sandbox_packages", "primitives", "repl_class"),
    *("messages", "worker_ctx_k", "output_limit", "dialect", "max_depth", "show_context_chars"),
    "redact",
)
"""Options of a run that decide what a recipe asks, or what a model is told first."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would take. ``str`` of it is for people.

    ``worker_calls`` and tokens are None where nobody can know before; ``batches`` are the calls of
    each batch, of which the first ``exact_batches`` are what the run will ask. ``dollars`` is what
    all of it costs at most, None where a price or the worker calls are not known. ``limits`` hold
    in any case.
    """

    supervisor: str
    worker: str
    turns: int
    supervisor_input_tokens: int
    supervisor_output_tokens: int
    worker_calls: int | None
    worker_input_tokens: int | None
    worker_output_tokens: int | None
    dollars: float | None
    supervisor_dollars: float | None
    limits: dict[str, float] = field(default_factory=dict)
    batches: tuple[int, ...] = ()
    exact_batches: int = 0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        written, read = self.supervisor_output_tokens, self.supervisor_input_tokens
        turns = "1 turn" if self.turns == 1 else f"up to {self.turns} turns"
        lines = [
            "Dry run     nothing was sent, and no engine was started",
            f"Supervisor  {self.supervisor}: {turns}, about {read:,} tokens in, {written:,} out",
            f"Workers     {self.worker}: {self._calls()}",
            f"Cost        {self._cost()}",
        ]
        caps = [amount(kind, value) for kind, value in self.limits.items()]  # type: ignore[arg-type]
        lines.append(f"Limits      {', '.join(caps) or 'none'}")
        lines += [f"{'Note' if n == 0 else '':<12}{note}" for n, note in enumerate(self.notes)]
        return "\n".join(lines)

    def _calls(self) -> str:
        if self.worker_calls is None:
            return "as many calls as the supervisor's code makes, which nobody knows before"
        first = sum(self.batches[: self.exact_batches])
        batches = "1 batch" if len(self.batches) == 1 else f"{len(self.batches):,} batches"
        exactly = "exactly" if first == self.worker_calls else f"{first:,} of them exactly"
        return (
            f"{counted(self.worker_calls, 'call')} in {batches} ({exactly}), about "
            f"{self.worker_input_tokens:,} tokens in, at most {self.worker_output_tokens:,} out"
        )

    def _cost(self) -> str:
        if self.dollars is not None:
            return f"about ${self.dollars:,.4f}"
        if self.supervisor_dollars is None:
            return "not known: a model has no price (--prices)"
        return f"about ${self.supervisor_dollars:,.4f} for the supervisor, and the worker calls"


class CountingBackend:
    """Stands for a worker, answers every call with nothing, and counts what it would read."""

    def __init__(
        self, name: str, window_tokens: int | None = None, endpoint: str | None = ""
    ) -> None:
        self.name = name
        self.window_tokens = window_tokens
        self.endpoint = endpoint
        self.batches: list[int] = []
        self.asked: list[tuple[int, int]] = []
        """Tokens of each call: its prompt's, and the most of its answer."""

    def models(self) -> Sequence[str]:
        """Its own."""
        return (self.name,)

    def card(self, model: str | None) -> wire.ModelCard | None:  # noqa: ARG002
        """Nobody answers."""
        return None

    def producers(self) -> Sequence[records.Producer]:
        """Nobody answers."""
        return ()

    def cancel(self, run: str) -> None:
        """Nothing waits."""

    def submit(self, submission: Submission) -> None:
        """Count them, and answer."""
        self.batches.append(len(submission.requests))
        loop = asyncio.get_running_loop()
        for frame in frames(submission.requests):
            outcomes = []
            for request in frame:
                text = text_of(request)
                prompt = prompt_tokens([text])
                room = max(0, (self.window_tokens or 0) - prompt)
                self.asked.append((prompt, request.sampling.max_tokens or room))
                result = wire.Result(request.id, 1, "", "stop", 0, 0, text)
                outcomes.append(Outcome(request, result, None, None, None, 0.0))
            loop.call_soon(submission.deliver, outcomes)


class Measuring(ModelHandler):
    """Stands for a supervisor, and keeps what it is told first."""

    endpoint = ""

    def __init__(self, model: str) -> None:
        self.model = model
        self.tokens = 0

    def chat(self, messages: Messages, **_kw: Any) -> LMResponse:
        """Measure, and end the run. Raises ModelError."""
        self.tokens = prompt_tokens(message["content"] for message in messages)
        raise ModelError("it has been measured")

    def chat_batch(self, message_batches: Any, **kw: Any) -> list[LMResponse]:
        """As ``chat``."""
        return [self.chat(messages, **kw) for messages in message_batches]


async def estimate_on_loop(
    query: str,
    context: str | list[Any] | dict[str, Any],
    supervisor: ModelHandler | str,
    worker: ModelHandler | Backend,
    *,
    max_iterations: int = 15,
    budget: Budget | None = None,
    prices: Prices | None = None,
    **options: Any,
) -> Estimate:
    """What ``run`` with these arguments would ask, and cost; nothing is sent to anybody.

    Of ``options``, which are those of ``run``, some (SHOWN) decide it; the others have no effect. A
    model of an API is not asked whether it is there. Raises InputError, SandboxError.
    """
    check_question(query, context)
    table = price_table(prices)
    handler = (
        supervisor_from(supervisor, check=False) if isinstance(supervisor, str) else supervisor
    )
    if isinstance(handler, RecordedSupervisor):
        raise InputError("a replay asks nobody and costs nothing: there is nothing to estimate")
    name = model_name(worker) if isinstance(worker, ModelHandler) else worker.name
    counting = CountingBackend(name, worker.window_tokens, worker.endpoint)
    limit, table = settled(budget or Budget(), table, counting, handler)
    limits = {kind.removeprefix("max_"): value for kind, value in limit.options.items()}
    estimate = Estimate(model_name(handler), name, 1, 0, 0, 0, 0, 0, 0.0, 0.0, limits)
    kept = {key: value for key, value in options.items() if key in SHOWN and value is not None}
    if isinstance(handler, RecipeHandler):
        price = table.price(name, worker.endpoint)
        return await _counted(estimate, query, context, handler, counting, price, kept)
    counting.endpoint = ""
    measuring = Measuring(model_name(handler))
    with _log_folder() as folder, contextlib.suppress(ModelError):
        await answer_on_loop(query, context, measuring, counting, log_dir=folder, **kept)
    price = table.price(model_name(handler), handler.endpoint)
    shown = kept.get("output_limit") or dialects.dialect(kept.get("dialect", "native")).output_limit
    return _assumed(estimate, measuring.tokens, max_iterations, shown, price)


def _log_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="distill-dry-run-")


async def _counted(
    estimate: Estimate,
    query: str,
    context: Any,
    recipe: RecipeHandler,
    counting: CountingBackend,
    price: Price | None,
    options: Mapping[str, Any],
) -> Estimate:
    """Of a recipe: its code runs, and what it asks is counted."""
    notes = ["tokens are estimated: three bytes each; the calls' number and texts are exact"]
    counting.endpoint = ""  # nobody sends a bill for what is only counted
    if counting.window_tokens is None:
        notes.append(
            "the worker's window is not known before: the recipe was told "
            f"{UNKNOWN_WINDOW_TOKENS:,} tokens (--window-tokens)"
        )
    with _log_folder() as folder:
        try:
            await answer_on_loop(query, context, recipe, counting, log_dir=folder, **options)
        except DistillError as error:
            notes.append(f"it went so far, with empty answers, and then: {error}")
    if len(counting.batches) > 1:
        notes.append("batches after the first depend on answers, which were empty here")
    else:
        notes.append("what it asks about the answers to this batch, if anything, is not counted")
    dollars = None
    if price is not None:
        dollars = sum(price.most(prompt, answer) for prompt, answer in counting.asked)
    return dataclasses.replace(
        estimate,
        worker_calls=len(counting.asked),
        worker_input_tokens=sum(prompt for prompt, _ in counting.asked),
        worker_output_tokens=sum(answer for _, answer in counting.asked),
        dollars=dollars,
        batches=tuple(counting.batches),
        exact_batches=min(1, len(counting.batches)),
        notes=tuple(notes),
    )


def _assumed(
    estimate: Estimate, first: int, turns: int, output_limit: int, price: Price | None
) -> Estimate:
    """Of any other supervisor: every turn is taken, and each adds as much as it may."""
    turns = int(min(turns, estimate.limits.get("turns", turns)))
    added = REPLY_TOKENS + output_limit // CHARS_PER_TOKEN
    prompts = [first + number * added for number in range(turns + 1)]  # and the last word
    dollars = None if price is None else sum(price.most(prompt, REPLY_TOKENS) for prompt in prompts)
    return dataclasses.replace(
        estimate,
        turns=turns,
        supervisor_input_tokens=sum(prompts),
        supervisor_output_tokens=REPLY_TOKENS * len(prompts),
        worker_calls=None,
        worker_input_tokens=None,
        worker_output_tokens=None,
        dollars=None,
        supervisor_dollars=dollars,
        notes=(
            f"the first messages are measured: about {first:,} tokens (three bytes each)",
            f"assumed: all {turns} turns and a last word, {REPLY_TOKENS:,} tokens a reply",
            f"assumed: {output_limit:,} characters shown a turn, nothing from a provider's cache",
        ),
    )


estimate = background.waiting(estimate_on_loop)
estimate.__name__ = estimate.__qualname__ = "estimate"
estimate_on_loop.__qualname__ = "estimate"
