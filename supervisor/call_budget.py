"""What a run's worker calls may use: each is reserved before it is sent, and settled after."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from distill.accounts import Account, Reservation
from distill.budget import NOTHING, Use, total
from distill.errors import BudgetError, WorkerError
from distill.models import Usage
from distill.protocol import worker_link as wire
from distill.supervisor.requests import Outcome, text_of
from distill.supervisor.tariff import Tariff
from distill.token_estimate import prompt_tokens
from distill.traces import records

ANSWER_TOKENS = 4_096
"""The most that an answer may have where tokens or dollars are limited, nobody says how many it may
have, and the model's window is not known, which else is the bound.
"""


class CallBudget:
    """Of one run, whose workers have a window of ``window_tokens``. On the driver's loop.

    ``account`` is what the calls have used, of the run's; the account ``above`` has counted already
    what was used before.
    """

    def __init__(
        self,
        account: Account,
        tariff: Tariff,
        window_tokens: int | None = None,
        above: Account | None = None,
    ) -> None:
        self.account = account.child()
        self._above = above
        self._tariff = tariff
        self._window_tokens = window_tokens
        self._open: dict[str, Reservation] = {}
        self._longest_gpu_s = 0.0
        self._refusal: BudgetError | None = None

    @property
    def _counts_tokens(self) -> bool:
        limited = self.account.limited
        return "tokens" in limited or "dollars" in limited

    @property
    def max_tokens(self) -> int | None:
        """What a call that says nothing may answer with; None: its window is bound enough."""
        is_bound = self._counts_tokens and self._window_tokens is None
        return self._tariff.reply_bound(ANSWER_TOKENS) if is_bound else None

    @property
    def open_calls(self) -> int:
        """How many are reserved, and may leave something of it."""
        return len(self._open)

    def admit(self, requests: Sequence[wire.Request]) -> Sequence[wire.Request]:
        """The first of them, as many as are covered now; each of these must be settled.

        Where not all are, ``refusal`` says why.
        """
        if self.account.limited in ((), ("turns",)):
            return requests
        counts, gpu_s = self._counts_tokens, self._longest_gpu_s
        for place, request in enumerate(requests):
            most = Use(worker_calls=1, gpu_s=gpu_s)
            if counts:
                most += self._most(request)
            try:
                self._open[request.id] = self.account.reserve(most)
            except BudgetError as error:
                self._refusal = error
                return requests[:place]
        return requests

    def _most(self, request: wire.Request) -> Use:
        messages = request.messages
        texts = [text_of(request)] if messages is None else [m.content for m in messages]
        prompt = prompt_tokens(texts)
        room = max(1, (self._window_tokens or ANSWER_TOKENS + prompt) - prompt)
        return self._tariff.most(prompt, request.sampling.max_tokens or room)

    @property
    def refusal(self) -> WorkerError:
        """What a call that was not admitted is told."""
        assert self._refusal is not None
        budget = self._refusal.budget
        advice = "; a lower max_tokens needs less" if budget in ("tokens", "dollars") else ""
        return WorkerError(f"not sent: {self._refusal}{advice}", budget=budget)

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        """Calls have been answered, or have failed."""
        unreserved = []
        for outcome in outcomes:
            used = self._used(outcome)
            if (reservation := self._open.pop(outcome.request.id, None)) is not None:
                reservation.settle(used)
            else:
                unreserved.append(used)
        if unreserved:
            self.account.charge(total(unreserved))

    def _used(self, outcome: Outcome) -> Use:
        result, gpu_s = outcome.result, outcome.gpu_s
        self._longest_gpu_s = max(self._longest_gpu_s, gpu_s)
        usage = outcome.usage
        if usage is None or not (usage.input_tokens or usage.output_tokens):
            usage = _usage(outcome.request, result)
        device = outcome.card.device if outcome.card is not None else ""
        return self._tariff.used(usage, gpu_s, device, calls=1)

    def take_up(self, line: records.Call) -> None:
        """A call that an earlier process of the same run has made."""
        self.account.charge(self.used_by(line), self._above)

    def used_by(self, line: records.Call) -> Use:
        """What the call of this line has used: nothing, where it had its answer from before."""
        if line.source != "sampled":
            return NOTHING
        usage = Usage(*msgspec.structs.astuple(line.usage))
        if line.error is None and not (usage.input_tokens or usage.output_tokens):
            usage = Usage(prompt_tokens([line.prompt]), prompt_tokens([line.response or ""]))
        return self._tariff.used(usage, line.gpu_s, line.model.device, calls=1)

    def forfeit(self) -> None:
        """The calls that are open are given up: what they take is as much as they may."""
        for reservation in self._open.values():
            reservation.settle(reservation.most)
        self._open.clear()

    def lost(self, max_tokens: int | None) -> Callable[[int], bool]:
        """What hears, in any thread, of tries of calls with this bound that were lost."""

        def lost(tokens: int) -> bool:
            answer = min(tokens, max_tokens or tokens)
            tried = self._tariff.most(tokens - answer, answer)
            return self.account.charge_again(tried) is None

        return lost

    def used_up(self) -> BudgetError | None:
        """What is used up so that no further call can be sent, if anything is."""
        account = self.account
        if account.limit("worker_calls") and account.left("worker_calls") == 0:
            return BudgetError("no worker calls left", budget="worker_calls")
        gpu_s = account.left("gpu_s")
        if gpu_s is not None and (gpu_s == 0 or gpu_s < self._longest_gpu_s):
            return BudgetError("no GPU time left", budget="gpu_s")
        return None


def _usage(request: wire.Request, result: wire.Result | wire.Failure) -> Usage:
    """What a worker said it took; where nobody has counted, what it looks like."""
    if isinstance(result, wire.Failure):
        return Usage()
    if result.prompt_tokens or result.completion_tokens:
        return Usage(result.prompt_tokens, result.completion_tokens, result.cached_tokens)
    return Usage(prompt_tokens([text_of(request)]), prompt_tokens([result.text]))
