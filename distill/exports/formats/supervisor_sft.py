"""Whole runs to fine-tune a supervisor on: the conversation, each message with its weight."""

from collections.abc import Iterator

import msgspec

from distill.exports.conversations import conversations
from distill.exports.levels import OF_TURNS
from distill.exports.material import Material
from distill.exports.row import Dropped, Format, Made, OriginRow, origin


class WeightedMessage(msgspec.Struct, frozen=True):
    """A message; ``weight`` is 1 where it is to be learnt, else 0."""

    role: str
    content: str
    weight: int


class SupervisorSftRow(OriginRow, frozen=True, kw_only=True):
    """A conversation of a supervisor.

    Attributes:
    messages: what was said, in order; a reply whose code ran to its end has weight 1, all else 0
    model: the supervisor, as its endpoint named it
    learnt: how many messages have weight 1
    """

    messages: list[WeightedMessage]
    model: str
    learnt: int


class SupervisorSft(Format):
    """Messages with weights, as axolotl, mistral-finetune and several hosts read them."""

    name = "supervisor-sft"
    about = "conversations of supervisors, with a weight for each message"
    read_by = "trainers that take a weight for each message (axolotl, mistral-finetune)"
    row = SupervisorSftRow
    asks = OF_TURNS

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        """A row for each conversation with something to learn."""
        for each in conversations(material):
            if isinstance(each, Dropped):
                yield each
                continue
            row = SupervisorSftRow(
                messages=[WeightedMessage(m.role, m.content, m.weight) for m in each.said],
                model=each.model,
                learnt=sum(m.weight for m in each.said),
                **origin(each.graded),
            )
            yield Made(row, each.graded, tuple(m.content for m in each.said))
