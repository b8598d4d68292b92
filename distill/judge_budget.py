"""What a judge may cost: each question to it is reserved before it is sent, and settled after."""

from collections.abc import Sequence
from typing import Any

from distill.accounts import Account
from distill.budget import NOTHING, Budget
from distill.caller import LOST_TRY
from distill.models import LMResponse, Messages, ModelHandler, Usage, check_response, model_name
from distill.prices import PriceTable
from distill.spending import settled_for
from distill.supervisor.tariff import Tariff
from distill.token_estimate import prompt_tokens

REPLY_TOKENS = 4_096
"""The most that a judge's reply may have where its dollars are limited; it may reason first."""


class BudgetedJudge(ModelHandler):
    """Asks ``handler`` as long as the budget covers it; from any thread.

    Raises InputError where dollars are limited and the model's price is not known.
    """

    def __init__(self, handler: ModelHandler, max_dollars: float | None, table: PriceTable) -> None:
        self._handler = handler
        self.model, self.endpoint = model_name(handler), handler.endpoint
        asked = [(self.model, self.endpoint)]
        budget, table = settled_for(asked, Budget(dollars=max_dollars), table, "scoring")
        self._account = Account(budget)
        self._tariff = Tariff(table.price(*asked[0]), table)

    @property
    def is_priced(self) -> bool:
        """Whether somebody knows what it costs."""
        return self._tariff.price is not None

    @property
    def dollars(self) -> float | None:
        """What it has cost so far; None: nobody knows."""
        return self._account.used.dollars if self.is_priced else None

    def dollars_of(self, usage: Usage) -> float | None:
        """What such a use of it costs; None: nobody knows."""
        return self._tariff.used(usage).dollars if self.is_priced else None

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        """Its reply. Raises BudgetError: the budget does not cover it; and what it raises."""
        prompt = prompt_tokens(message["content"] for message in messages)
        reply_tokens = self._tariff.reply_bound(REPLY_TOKENS)
        most = self._tariff.most(prompt, reply_tokens)
        bound = {"max_tokens": reply_tokens} if self._account.limited else {}
        reservation = self._account.reserve(most)
        token = LOST_TRY.set(lambda _: self._account.charge_again(most) is None)
        used = NOTHING
        try:
            reply = check_response(self._handler, self._handler.chat(messages, **bound, **kw))
            usage = reply.usage
            if not (usage.input_tokens or usage.output_tokens):  # nobody counted
                usage = Usage(prompt, prompt_tokens([reply.text]))
            used = self._tariff.used(usage)
        finally:
            LOST_TRY.reset(token)
            reservation.settle(used)
        return reply

    def chat_batch(self, message_batches: Sequence[Messages], **kw: Any) -> list[LMResponse]:
        """Reply to several, one after another."""
        return [self.chat(messages, **kw) for messages in message_batches]
