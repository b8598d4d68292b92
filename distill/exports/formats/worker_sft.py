"""Worker calls to fine-tune a worker on: what it was asked, what it answered."""

from collections.abc import Iterator

from distill.exports.asked import messages_of, text_of
from distill.exports.levels import OF_CALLS
from distill.exports.material import Material
from distill.exports.row import ChatMessage, Dropped, Format, Made, OriginRow, origin
from distill.traces import records


class WorkerSftRow(OriginRow, frozen=True, kw_only=True):
    """A worker call as a conversation.

    Attributes:
    prompt: what the worker was asked
    completion: what it answered: one message, of the assistant
    call: the call's id
    model: the model that answered
    """

    prompt: list[ChatMessage]
    completion: list[ChatMessage]
    call: str
    model: str


class WorkerSft(Format):
    """TRL's conversational prompt-completion form."""

    name = "worker-sft"
    about = "worker calls as prompt and completion, for fine-tuning workers"
    read_by = "TRL's SFTTrainer (conversational prompt-completion)"
    row = WorkerSftRow
    asks = OF_CALLS
    may_lose_shots = True

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        """A row for each call that was answered in full."""
        for graded, call in material.calls():
            if (why := unfit(call)) is not None:
                yield Dropped(why)
            elif isinstance(prompt := messages_of(call, self.name, shots=material.shots), Dropped):
                yield prompt
            else:
                assert call.response is not None
                row = WorkerSftRow(
                    prompt=prompt,
                    completion=[ChatMessage("assistant", call.response)],
                    call=call.id,
                    model=call.model.model,
                    **origin(graded),
                )
                yield Made(row, graded, (*(each.content for each in prompt), call.response))


class WorkerSftTextRow(OriginRow, frozen=True, kw_only=True):
    """A worker call as text.

    Attributes:
    prompt: the text as the model saw it, chat template included
    completion: what it wrote after it, without the token that ends it
    call: the call's id
    model: the model that answered
    """

    prompt: str
    completion: str
    call: str
    model: str


class WorkerSftText(Format):
    """TRL's standard prompt-completion form: for base models, and prompts without a template."""

    name = "worker-sft-text"
    about = "worker calls as the text that the model saw and the text that it wrote"
    read_by = "TRL's SFTTrainer (standard prompt-completion)"
    row = WorkerSftTextRow
    asks = OF_CALLS
    may_lose_shots = True

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        """A row for each call that was answered in full, and whose text is known."""
        for graded, call in material.calls():
            if (why := unfit(call)) is not None:
                yield Dropped(why)
            elif isinstance(prompt := text_of(call, WorkerSft.name, shots=material.shots), Dropped):
                yield prompt
            else:
                assert call.response is not None
                row = WorkerSftTextRow(
                    prompt=prompt,
                    completion=call.response,
                    call=call.id,
                    model=call.model.model,
                    **origin(graded),
                )
                yield Made(row, graded, (prompt, call.response))


def unfit(call: records.Call) -> str | None:
    """Why a call is nothing to learn from, None if it is."""
    if call.response is None:
        return "the call failed"
    if call.source in ("reused", "replayed"):
        return f"{call.source}: the answer stands in an earlier line"
    if call.finish_reason == "length":
        return "the answer was cut off (finish_reason length)"
    if not call.response.strip():
        return "the answer is empty"
    return None
