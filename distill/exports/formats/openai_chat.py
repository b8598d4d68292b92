"""OpenAI's files for supervised fine-tuning, of supervisors and of workers.

Its rules, from its OpenAPI description (FineTuneChatRequestInput) and its guide: an object a line
with ``messages``; a message has ``role``, ``content`` and nothing else but an assistant's
``weight``, 0 or 1; no content is empty; the last message is an assistant's; ten lines at least.
"""

from collections.abc import Iterator

import msgspec

from distill.exports.asked import Messages, without_shots
from distill.exports.conversations import Said, conversations
from distill.exports.formats.worker_sft import unfit
from distill.exports.graded import GradedRun
from distill.exports.levels import OF_CALLS, OF_TURNS
from distill.exports.material import Material
from distill.exports.row import Dropped, Format, Made, Row

ROLES = ("system", "user", "assistant")
FEWEST_ROWS = 10


class OpenAIMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message; ``weight`` 0 is what is not to be learnt of an assistant's."""

    role: str
    content: str
    weight: int | None = None


class OpenAIRow(Row, frozen=True, kw_only=True):
    """A line of a file for supervised fine-tuning.

    Attributes:
    messages: what was said; a message of the assistant with weight 0 is not learnt
    """

    messages: list[OpenAIMessage]


class OpenAISupervisor(Format):
    """A conversation a line."""

    name = "openai-supervisor"
    about = "conversations of supervisors, as OpenAI fine-tunes on them"
    read_by = "OpenAI's supervised fine-tuning"
    row = OpenAIRow
    asks = OF_TURNS
    only_jsonl = True
    fewest_rows = FEWEST_ROWS

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        """A row for each conversation with something to learn; it ends with the last of that."""
        for each in conversations(material):
            if isinstance(each, Dropped):
                yield each
            else:
                learnt = [place for place, said in enumerate(each.said) if said.weight]
                yield _made(each.graded, each.said[: learnt[-1] + 1])


class OpenAIWorker(Format):
    """A worker call a line."""

    name = "openai-worker"
    about = "worker calls, as OpenAI fine-tunes on them"
    read_by = "OpenAI's supervised fine-tuning"
    row = OpenAIRow
    asks = OF_CALLS
    may_lose_shots = True
    only_jsonl = True
    fewest_rows = FEWEST_ROWS

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        """A row for each call that was answered in full."""
        for graded, call in material.calls():
            if (why := unfit(call)) is not None:
                yield Dropped(why)
            else:
                assert call.response is not None
                asked: Messages = call.messages or ({"role": "user", "content": call.prompt},)
                if not material.shots:
                    asked = without_shots(asked)
                said = [Said(each["role"], each["content"], 0) for each in asked]
                yield _made(graded, [*said, Said("assistant", call.response, 1)])


def _made(graded: GradedRun, said: list[Said]) -> Made | Dropped:
    for each in said:
        if each.role not in ROLES:
            return Dropped(f"OpenAI knows no role but {', '.join(ROLES)}")
        if not each.content.strip():
            return Dropped("a message is empty, which OpenAI refuses")
    messages = [
        OpenAIMessage(each.role, each.content, each.weight if each.role == "assistant" else None)
        for each in said
    ]
    return Made(OpenAIRow(messages=messages), graded, tuple(each.content for each in said))
