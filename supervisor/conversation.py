"""The conversation of a run with its supervisor model: all of it, and what the next request has.

A request is the one before with messages added at its end, byte by byte, so that a provider's
cache of the prefix hits; only a compaction changes it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from distill.supervisor.compaction import Exchange, note, state
from distill.supervisor.run_log import RunLog
from distill.token_estimate import CHARS_PER_TOKEN
from distill.traces import records

Ranges = tuple[tuple[int, int], ...]
RATIO_BOUNDS = (0.1, 2.0)
"""Tokens a character that are believed of an endpoint's count."""


class Conversation:
    """A run's messages, each logged once, when it is added."""

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._messages: list[dict[str, str]] = []
        self._turns: list[int] = []
        """The turn that each message belongs to; 0: the opening."""
        self._ranges: list[tuple[int, int]] = []
        """Of indices, in order: what the request has."""
        self._notes: set[int] = set()
        """Messages that stand for others."""
        self._tokens_per_char = 1 / CHARS_PER_TOKEN

    def take_up(
        self, messages: Sequence[records.Message], compactions: Sequence[records.Compaction]
    ) -> None:
        """Go on with a logged one."""
        self._messages = [{"role": each.role, "content": each.content} for each in messages]
        self._turns = [each.turn for each in messages]
        shortened = {each.index: each for each in compactions}
        for index in range(len(messages)):
            if (made := shortened.get(index)) is not None:
                self._ranges = list(made.request)
                self._notes |= set(range(index, index + made.messages))
            elif index not in self._notes:
                self._extend(index)

    def add(self, role: str, content: str) -> None:
        """A message, which the next request ends with."""
        self._append(role, content)
        self._log.message(role, content)

    def add_reply(self, content: str, **fields: Any) -> None:
        """The model's reply to ``request()``; ``fields`` are of its turn's record."""
        asked = self._asked()
        fields["request_messages"] = len(self._messages)
        fields["request"] = asked if asked != ((0, len(self._messages)),) else None
        if (tokens := fields["usage"].input_tokens) > 0:
            low, high = RATIO_BOUNDS
            self._tokens_per_char = min(max(tokens / max(1, self._chars()), low), high)
        self._append("assistant", content)
        self._log.reply(content, **fields)

    def request(self) -> list[dict[str, str]]:
        """The messages to send. Copies: a handler that changes them changes nothing here."""
        return [dict(self._messages[index]) for index in self._sent()]

    def tokens(self) -> int:
        """How many the request has, by the endpoint's last count."""
        return round(self._chars() * self._tokens_per_char)

    def compact(
        self,
        limit_tokens: int,
        variables: Mapping[str, Any],
        reason: Literal["window", "endpoint"],
    ) -> bool:
        """Leave turns out until some ``limit_tokens`` are left; False: there is none to leave out.

        The opening stays, and the last turns that fit; at least one goes.
        """
        there = list(self._exchanges())
        kept = self._kept(there, limit_tokens)
        if not there:
            return False
        first = kept[0].start if kept else len(self._messages)
        gone = [each for each in self._exchanges(everything=True) if each.start < first]
        told = state(
            gone, variables, round(limit_tokens / self._tokens_per_char / 4), is_all=not kept
        )
        added = [{"role": "assistant", "content": note(gone)}, {"role": "user", "content": told}]
        before, index = self.tokens(), len(self._messages)
        for message in added:
            self._append(message["role"], message["content"])
        self._notes |= {index, index + 1}
        self._ranges = [(0, self._opening()), (index, index + len(added))]
        for each in kept:
            for place in range(each.start, each.end):
                if place not in self._notes:
                    self._extend(place)
        self._log.compaction(
            added,
            reason=reason,
            request=self._asked(),
            tokens_before=before,
            tokens=self.tokens(),
        )
        return True

    def _kept(self, there: Sequence[Exchange], limit_tokens: int) -> list[Exchange]:
        """The last turns that fit beside the opening; not all, and not none of several."""
        opening = sum(len(each["content"]) for each in self._messages[: self._opening()])
        room = 0.75 * limit_tokens / self._tokens_per_char - opening
        kept: list[Exchange] = []
        for each in reversed(there[1:]):
            room -= len(each.reply) + len(each.told)
            if room < 0 and kept:
                break
            kept.insert(0, each)
        return kept

    def _exchanges(self, *, everything: bool = False) -> Iterator[Exchange]:
        """The turns of the request, or of the whole run, without what stands for others."""
        sent = range(len(self._messages)) if everything else self._sent()
        places = [at for at in sorted(sent) if at >= self._opening() and at not in self._notes]
        starts = [at for at in places if self._messages[at]["role"] == "assistant"]
        for start, following in zip(starts, [*starts[1:], len(self._messages)], strict=True):
            told = [at for at in places if start < at < following]
            text = "\n\n".join(self._messages[at]["content"] for at in told)
            end = told[-1] + 1 if told else start + 1
            yield Exchange(self._turns[start], self._messages[start]["content"], text, start, end)

    def _append(self, role: str, content: str) -> None:
        self._extend(len(self._messages))
        self._messages.append({"role": role, "content": content})
        self._turns.append(self._log.turn)

    def _extend(self, index: int) -> None:
        """The request goes on with this message."""
        if self._ranges and self._ranges[-1][1] == index:
            self._ranges[-1] = (self._ranges[-1][0], index + 1)
        else:
            self._ranges.append((index, index + 1))

    def _asked(self) -> Ranges:
        return tuple(self._ranges)

    def _sent(self) -> Iterator[int]:
        return (index for start, end in self._ranges for index in range(start, end))

    def _opening(self) -> int:
        """How many messages the run began with."""
        return next((at for at, turn in enumerate(self._turns) if turn), len(self._turns))

    def _chars(self) -> int:
        return sum(len(self._messages[index]["content"]) for index in self._sent())
