"""What every model is asked through."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distill.errors import WorkerBatchError, WorkerError
from distill.models.response import LMResponse

if TYPE_CHECKING:
    from distill.protocol.worker_link import ModelCard

Messages = Sequence[Mapping[str, str]]
"""A conversation: ``{"role": "system" | "user" | "assistant", "content": text}`` each."""


class ModelHandler(ABC):
    """A model that can be the supervisor or the worker. A subclass need not call ``__init__``.

    ``model`` names it in the logs; ``window_tokens`` is its context window where known;
    ``endpoint`` says where it is asked, for its price: ``host`` or ``host:port``, "" for what costs
    nothing by the token, None where nobody knows; ``url`` is its whole address, without a password,
    if that is not the model's own API.
    """

    model: str = ""
    endpoint: str | None = None
    window_tokens: int | None = None
    url: str | None = None

    @abstractmethod
    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        """Reply to one conversation; ``kw`` are sampling parameters. Raises ModelError.

        ``logprobs=True`` is among them only where the caller wants log-probabilities.
        """

    @abstractmethod
    def chat_batch(self, message_batches: Sequence[Messages], **kw: Any) -> list[LMResponse]:
        """Reply to several, in their order.

        Raises WorkerBatchError, with the replies that did come, when some failed.
        """

    def complete_batch(self, prompts: Sequence[str], **kw: Any) -> list[LMResponse]:
        """Continue several texts as they stand, where the model can; else as user messages."""
        return self.chat_batch([[{"role": "user", "content": text}] for text in prompts], **kw)

    def card(self) -> "ModelCard | None":
        """Which weights would answer now, where that is known."""
        return None

    def prepare(self) -> None:  # noqa: B027  (most handlers are ready when they are made)
        """Make ready: called before a run, in a thread, so that the first call does not wait.

        Afterwards ``window_tokens`` is known, where it can be. Raises ModelError.
        """

    def close(self) -> None:  # noqa: B027  (most handlers hold nothing)
        """Let go of what the handler holds; it may be called twice."""


def all_or_error(
    replies: list[LMResponse | None], errors: dict[int, WorkerError]
) -> list[LMResponse]:
    """The replies; raises WorkerBatchError, with those there are, if some failed."""
    if errors:
        texts = [reply.text if reply else None for reply in replies]
        raise WorkerBatchError(texts, errors, len(replies), replies)
    return [reply for reply in replies if reply is not None]


def model_name(handler: ModelHandler) -> str:
    """How a handler is named in the logs."""
    return handler.model or type(handler).__name__
