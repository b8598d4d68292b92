"""A model's reply, and what it cost."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.protocol.worker_link import ModelCard


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more replies. ``cached_input_tokens`` are part of ``input_tokens``."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model made through its endpoint's own form. ``arguments`` should be JSON."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class LMResponse:
    """One reply: its text, what it cost, which model gave it, and how long it took (s).

    ``attempts`` is how often it was asked for; ``waited_s`` of ``elapsed`` it waited for the
    endpoint's limits and between attempts. ``card`` says which weights answered, token ids what
    was read and sampled, ``logprobs`` (nats) one value for each of ``token_ids``, where known.
    ``gpu_s`` are seconds of a worker server's device.
    ``tool_calls`` come after the text; a supervisor's are read for code. ``refusal`` is what was
    said in place of a reply, ``reasoning`` what was thought before it, where the endpoint tells.
    """

    text: str
    usage: Usage
    model: str
    elapsed: float
    finish_reason: str = "stop"
    attempts: int = 1
    waited_s: float = 0.0
    card: "ModelCard | None" = None
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    gpu_s: float = 0.0
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str = ""
    reasoning: str = ""
