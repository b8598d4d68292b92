"""The conversation of a run with its supervisor model: all of it, and what the next request has.

A request is the one before with messages added at its end, byte by byte, so that a provider's
cache of the prefix hits; only a compaction changes it.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from distill.supervisor.compaction import Exchange, note, state
from distill.supervisor.run_log import RunLog
from distill.token_estimate import CHARS_PER_TOKEN
from distill.traces import records

RATIO_BOUNDS = (0.1, 2.0)
"""Tokens a character that are believed of an endpoint's count."""
STATE_SHARE = 1 / 4
"""Of what a conversation is shortened to: the account of what is left out."""


class Conversation:
    """A run's messages, each logged once, when it is added."""

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._messages: list[dict[str, str]] = []
        self._turns: list[int] = []
        """The turn that each message belongs to; 0: the opening."""
        self._compactions = 0
        self._added: list[dict[str, str]] = []
        """What stands for the messages between the opening and ``_kept_from``."""
        self._kept_from = 0
        self._tokens_per_char = 1 / CHARS_PER_TOKEN

    def take_up(
        self,
        messages: Sequence[records.Message],
        compactions: Sequence[records.Compaction],
        counted: tuple[int, int] | None = None,
    ) -> None:
        """Go on with a logged one; ``counted``: tokens and characters of its last request."""
        if counted is not None:
            self._count(*counted)
        self._messages = [{"role": each.role, "content": each.content} for each in messages]
        self._turns = [each.turn for each in messages]
        self._compactions = len(compactions)
        if compactions:
            self._added = [dict(each) for each in compactions[-1].added]
            self._kept_from = compactions[-1].kept_from

    def add(self, role: str, content: str) -> None:
        """A message, which the next request ends with."""
        self._append(role, content)
        self._log.message(role, content)

    def add_reply(self, content: str, usage: records.TokenUsage, **fields: Any) -> None:
        """The model's reply to ``request()``; ``fields`` are of its turn's record."""
        self._count(usage.input_tokens, chars_of(self.request()))
        fields["request_messages"] = len(self._messages)
        self._append("assistant", content)
        self._log.reply(content, usage=usage, compactions=self._compactions, **fields)

    def request(self) -> list[dict[str, str]]:
        """The messages to send. Copies: a handler that changes them changes nothing here."""
        opening = self._opening()
        there = (
            *self._messages[:opening],
            *self._added,
            *self._messages[max(opening, self._kept_from) :],
        )
        return [dict(message) for message in there]

    def tokens(self) -> int:
        """How many the request has, by the endpoint's last count."""
        return round(chars_of(self.request()) * self._tokens_per_char)

    def compact(
        self,
        limit_tokens: int,
        variables: Mapping[str, Any],
        reason: Literal["window", "endpoint"],
    ) -> bool:
        """Leave turns out until some ``limit_tokens`` are left; False: there is none to leave out.

        The opening stays, and the last turns that fit; at least one goes.
        """
        exchanges = list(self._exchanges())
        there = [each for each in exchanges if each.start >= self._kept_from]
        if not there:
            return False
        limit_chars = limit_tokens / self._tokens_per_char
        kept = self._fitting(there[1:], limit_chars * (1 - STATE_SHARE))
        gone = exchanges[: len(exchanges) - len(kept)]
        told = state(gone, variables, round(limit_chars * STATE_SHARE), is_all=not kept)
        before = self.tokens()
        self._added = [
            {"role": "assistant", "content": note(gone)},
            {"role": "user", "content": told},
        ]
        self._kept_from = kept[0].start if kept else len(self._messages)
        self._compactions += 1
        self._log.write(
            records.Compaction,
            turn=self._log.turn,
            reason=reason,
            opening=self._opening(),
            added=tuple(self._added),
            kept_from=self._kept_from,
            tokens_before=before,
            tokens=self.tokens(),
        )
        return True

    def _fitting(self, there: Sequence[Exchange], limit_chars: float) -> Sequence[Exchange]:
        """The last turns that fit beside the opening, and the very last in any case."""
        room = limit_chars - chars_of(self._messages[: self._opening()])
        count = 0
        for each in reversed(there):
            room -= len(each.reply) + len(each.told)
            if room < 0 and count:
                break
            count += 1
        return there[len(there) - count :]

    def _exchanges(self) -> Iterator[Exchange]:
        """The turns of the run, in order."""
        places = range(self._opening(), len(self._messages))
        starts = [at for at in places if self._messages[at]["role"] == "assistant"]
        for start, following in itertools.pairwise((*starts, len(self._messages))):
            told = (each["content"] for each in self._messages[start + 1 : following])
            reply = self._messages[start]["content"]
            yield Exchange(self._turns[start], reply, "\n\n".join(told), start)

    def _count(self, tokens: int, chars: int) -> None:
        """An endpoint has counted a request; 0 tokens: it does not count."""
        if tokens > 0:
            low, high = RATIO_BOUNDS
            self._tokens_per_char = min(max(tokens / max(1, chars), low), high)

    def _append(self, role: str, content: str) -> None:
        self._messages.append({"role": role, "content": content})
        self._turns.append(self._log.turn)

    def _opening(self) -> int:
        """How many messages the run began with."""
        return next((at for at, turn in enumerate(self._turns) if turn), len(self._turns))


def chars_of(messages: Sequence[Mapping[str, str]]) -> int:
    """Characters of their contents."""
    return sum(len(message["content"]) for message in messages)
