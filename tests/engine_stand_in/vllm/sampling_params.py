"""How a completion is drawn. Exactly the worker server's arguments: another is a TypeError."""

import enum
from dataclasses import dataclass
from typing import Any


class RequestOutputKind(enum.Enum):
    FINAL_ONLY = 2


@dataclass(slots=True)
class StructuredOutputsParams:
    json: Any = None
    choice: list[str] | None = None
    regex: str | None = None

    def __post_init__(self) -> None:
        if self.choice is None:
            raise ValueError("the stand-in constrains an answer to choices only")


@dataclass(slots=True)
class SamplingParams:
    output_kind: RequestOutputKind
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    seed: int | None
    stop: list[str]
    logprobs: int | None
    detokenize: bool
    skip_clone: bool
    structured_outputs: StructuredOutputsParams | None = None
