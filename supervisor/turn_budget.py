"""What a run's turns may use: each is reserved before it is sent, and one more is kept for last."""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from distill.accounts import Account
from distill.budget import NOTHING, Use, amount
from distill.caller import LOST_TRY
from distill.errors import BudgetError, InputError, ModelError
from distill.models import LMResponse, Usage
from distill.supervisor.call_budget import CallBudget
from distill.supervisor.tariff import Tariff
from distill.supervisor.window import FULL
from distill.token_estimate import CHARS_PER_TOKEN, prompt_tokens
from distill.traces import records

T = TypeVar("T")

REPLY_TOKENS = 16_384
"""The most that a reply may have where its tokens or dollars are limited."""
SHORTEST_REPLY_TOKENS = 512
"""With room for less no further turn is begun, but the last."""
LAST_REPLY_TOKENS = 1_024
"""Kept for the last reply."""
CLOSING_TOKENS = 100
"""What a message ends with beside what was shown: what is left, or that this is the last turn."""
LAST_SHARE, LAST_LIMIT_S = 0.1, 30.0
"""Of the wall time, kept for the last turn until it is known how long a reply takes."""
LEAST_LAST_S = 3.0
"""Of it, kept however fast replies came: the last one has more to read, and cells."""


class TurnBudget:
    """Of one run; ``shown_chars`` of each cell's output are shown. Called on the driver's loop.

    ``window_tokens`` is what the model's window holds, None where nobody knows.

    ``account`` is what the turns have used, of the run's. A run whose ``calls`` have nothing left
    of their budget has one turn left.
    """

    def __init__(
        self,
        account: Account,
        tariff: Tariff,
        calls: CallBudget,
        shown_chars: int = 0,
        window_tokens: int | None = None,
    ) -> None:
        self.account = account = account.child()
        self._calls = calls
        self._tariff = tariff
        self._window_tokens = window_tokens
        self._shown_tokens = shown_chars // CHARS_PER_TOKEN
        self._hold = account.reserve(NOTHING)
        self._turn = self._keep = NOTHING
        self._reply_tokens: int | None = None
        self._asked_tokens = 0
        self._wall_s = account.left_s()
        self._slowest_s = 0.0
        self._uncovered: BudgetError | None = None
        """Why a try that was lost is not followed by another."""
        self._replies = 0
        self._recorded_end: records.RunEnd | None = None

    def end_as(self, recorded: records.RunEnd) -> None:
        """A recorded run is done again: its budget ends it where it did."""
        self._recorded_end = recorded

    @property
    def _is_bounded(self) -> bool:
        limited = self.account.limited
        return self._tariff.counts and ("tokens" in limited or "dollars" in limited)

    def open(self, opening: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """Put a last turn aside, before anything is begun; the opening, with what is left.

        Raises InputError where not even a last turn is covered.
        """
        if self._is_bounded:
            try:
                self._hold.resize(self._last(prompt_tokens(m["content"] for m in opening)))
            except BudgetError as error:
                raise InputError(f"{error}, for one turn") from error
        messages = [dict(message) for message in opening]
        if messages and (line := self.line()):
            messages[-1]["content"] += f"\n\n{line}"
        return messages

    def plan(self, messages: Sequence[Mapping[str, str]], *added: str) -> BudgetError | None:
        """Put the next turn aside, with a last one after it; why that can't be.

        ``added`` is what will be told beside the messages.
        """
        try:
            self._check_used_up()
            self._turn, keep = Use(turns=1), NOTHING
            if self._is_bounded:
                texts = [*(message["content"] for message in messages), *added]
                prompt = prompt_tokens(texts) + CLOSING_TOKENS
                self._reply_tokens = reply = self._room(prompt)
                self._asked_tokens = prompt
                self._turn += self._tariff.most(prompt, reply)
                keep = self._last(prompt + reply + self._shown_tokens)
            self._hold.resize(self._turn + keep)
            self._keep = keep
        except BudgetError as error:
            return error
        return None

    def plan_last(self, messages: Sequence[Mapping[str, str]]) -> None:
        """Put the last turn aside, as it is asked now. Raises BudgetError: it can't be asked."""
        if self.account.left_s() == 0:
            raise BudgetError("the wall time is up", budget="wall_s")
        self._turn = self._keep = NOTHING
        if self._is_bounded:
            prompt = prompt_tokens(message["content"] for message in messages)
            self._reply_tokens = self._last_room(prompt)
            self._asked_tokens = prompt
            self._turn = self._tariff.most(prompt, self._reply_tokens)
        self._hold.resize(self._turn)

    @property
    def options(self) -> dict[str, Any]:
        """What the planned turn is asked with."""
        return {} if self._reply_tokens is None else {"max_tokens": self._reply_tokens}

    async def in_time(self, reply: Awaitable[T]) -> T:
        """The reply, unless the wall time ends before it comes.

        Raises BudgetError, also where a try was lost that the budget does not cover twice, and
        what ``reply`` raises.
        """
        token, self._uncovered = LOST_TRY.set(self._lost), None
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(self.account.left_s()) as limit:
                return await reply
        except TimeoutError:
            if not limit.expired():
                raise
            self._forfeit()
            raise BudgetError("the wall time is up", budget="wall_s") from None
        except ModelError as error:
            if self._uncovered is None:
                raise
            why = self._uncovered
            self._hold.spend(NOTHING, self._keep)  # the lost try is in the account already
            self._turn = NOTHING
            raise BudgetError(f"{error}: {why}", budget=why.budget, left=why.left) from error
        except asyncio.CancelledError:
            self._forfeit()
            raise
        finally:
            LOST_TRY.reset(token)
            self._slowest_s = max(self._slowest_s, time.monotonic() - started_s)

    def _forfeit(self) -> None:
        """The reply is not waited for: what it takes is as much as it may."""
        self._hold.spend(self._turn)
        self._turn = NOTHING

    def close(self) -> None:
        """There are no further turns."""
        self._hold.release()

    def _lost(self, _tokens: int) -> bool:
        """A try was sent and never answered; whether another is covered."""
        tried = self._turn - Use(turns=self._turn.turns)
        self._uncovered = self.account.charge_again(tried)
        return self._uncovered is None

    def replied(self, response: LMResponse) -> None:
        """Count the reply; where nobody said what it took, what it looks like."""
        usage = response.usage
        if self._tariff.counts and not (usage.input_tokens or usage.output_tokens):
            usage = Usage(self._asked_tokens, prompt_tokens([response.text]))
        used = self._tariff.used(
            usage, response.gpu_s, response.card.device if response.card else ""
        )
        self._replies += 1
        self._hold.spend(used + Use(turns=self._turn.turns), self._keep)
        self._turn = NOTHING

    # -- the wall clock

    def work_left_s(self) -> float | None:
        """Until when worker calls may go on: then only a last turn has time. None: no end."""
        left_s = self.account.left_s()
        if left_s is None or self._wall_s is None:
            return None
        share_s = LAST_SHARE * self._wall_s
        least_s = min(share_s, LEAST_LAST_S if self._slowest_s else LAST_LIMIT_S)
        return max(0.0, left_s - min(max(1.25 * self._slowest_s, least_s), self._wall_s / 2))

    # -- what the model is told

    def line(self) -> str:
        """What is left of each budget but the turns', in one line; "" where all is unlimited."""
        account = self.account
        left = [
            # The next turn is put aside already, and takes most likely less.
            amount(kind, (account.left(kind) or 0) + self._turn.of(kind))
            for kind in account.limited
            if kind != "turns"
        ]
        if (work_s := self.work_left_s()) is not None:
            left.append(amount("wall_s", work_s))
        if not left:
            return ""
        return f"Budget left, beside what is kept for a last turn: {', '.join(left)}."

    # -- how much there is

    def _check_used_up(self) -> None:
        end = self._recorded_end
        if end is not None and end.ended_by is not None and self._replies >= end.iterations:
            raise BudgetError("the recorded run ended here", budget=end.ended_by)
        if self.work_left_s() == 0:
            raise BudgetError("no wall time left", budget="wall_s")
        if (why := self._calls.used_up()) is not None:
            raise why

    def _last(self, prompt: int) -> Use:
        return self._tariff.most(prompt + CLOSING_TOKENS, LAST_REPLY_TOKENS)

    def _left(self) -> tuple[float, float]:
        """Tokens and dollars, what is held for turns included."""
        held, account = self._hold.most, self.account
        tokens, dollars = account.left("tokens"), account.left("dollars")
        most = float("inf")
        return (
            most if tokens is None else tokens + held.tokens,
            most if dollars is None else dollars + held.dollars,
        )

    def _room(self, prompt: int) -> int:
        """How many tokens a reply may have, so that a last turn is left after it."""
        return self._reply_of(prompt, self._last(prompt + self._shown_tokens), twice=True)

    def _last_room(self, prompt: int) -> int:
        return self._reply_of(prompt, NOTHING, twice=False)

    def _reply_of(self, prompt: int, after: Use, *, twice: bool) -> int:
        """Of a turn with this prompt; the reply is read again in what comes after, if ``twice``."""
        price, (tokens, dollars) = self._tariff.price, self._left()
        asked = self._tariff.most(prompt, 0) + after
        room = {"tokens": (tokens - asked.tokens) / (2 if twice else 1)}
        one = self._tariff.most(0, 1).dollars + (self._tariff.most(1, 0).dollars if twice else 0.0)
        if price is not None and one > 0:
            room["dollars"] = (dollars - asked.dollars) / one
        short = min(room, key=room.__getitem__)
        if room[short] < (SHORTEST_REPLY_TOKENS if twice else 16):
            raise BudgetError(f"what is left of the {short} does not cover a turn", budget=short)
        return int(min(room[short], self._longest_reply(prompt)))

    def _longest_reply(self, prompt: int) -> int:
        """What the model may write, whatever is left: endpoints refuse to be asked for more."""
        most = self._tariff.reply_bound(REPLY_TOKENS)
        if self._window_tokens is None:
            return most
        # The prompt is estimated rather high, and leaves room for a reply in any case (window.py).
        room = max(self._window_tokens - prompt, int((1 - FULL) * self._window_tokens))
        return max(1, min(most, room))
