"""Single replies to fine-tune a supervisor on: what it was sent, and what it wrote."""

from collections.abc import Iterator

from distill.exports.conversations import conversations
from distill.exports.levels import OF_TURNS
from distill.exports.material import Material
from distill.exports.row import ChatMessage, Dropped, Format, Made, OriginRow, origin


class SupervisorTurnsRow(OriginRow, frozen=True, kw_only=True):
    """A reply of a supervisor.

    Attributes:
    prompt: the conversation before it
    completion: the reply: one message, of the assistant
    model: the supervisor, as its endpoint named it
    """

    prompt: list[ChatMessage]
    completion: list[ChatMessage]
    model: str


class SupervisorTurns(Format):
    """The same replies as ``supervisor-sft`` has weights for, for trainers that know no weights."""

    name = "supervisor-turns"
    about = "each reply of a supervisor whose code ran, with the conversation before it"
    read_by = "TRL's SFTTrainer (conversational prompt-completion)"
    row = SupervisorTurnsRow
    asks = OF_TURNS

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        """A row for each reply to learn."""
        for each in conversations(material):
            if isinstance(each, Dropped):
                yield each
                continue
            messages = [ChatMessage(m.role, m.content) for m in each.said]
            for place, said in enumerate(each.said):
                if said.weight:
                    row = SupervisorTurnsRow(
                        prompt=messages[:place],
                        completion=[messages[place]],
                        model=each.model,
                        **origin(each.graded),
                    )
                    yield Made(row, each.graded, tuple(m.content for m in messages[: place + 1]))
