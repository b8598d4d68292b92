"""distill as a user calls it: ``run`` with a recipe, its jail, its log."""

from __future__ import annotations

import tempfile
from typing import Any

import quality_recipe
from quality_contestant import Answer, Answering, Asked, Engine

from distill import LMResponse, ModelHandler, OpenAIHandler, Usage, run

TOKENS_OF_A_CALL = 400
"""About what one prompt of *find* has: its examples, a passage, the question."""


class Code(ModelHandler):
    """A supervisor that replies with this code."""

    model = "code"

    def __init__(self, code: str) -> None:
        self._code = code

    def chat(self, messages: Any, **_kw: Any) -> LMResponse:  # noqa: ARG002
        return LMResponse(f"```repl\n{self._code}\n```", Usage(), self.model, 0.0)

    def chat_batch(self, message_batches: Any, **kw: Any) -> list[LMResponse]:
        return [self.chat(messages, **kw) for messages in message_batches]


class Recipe(Answering):
    """A recipe by its name."""

    supervisor: ModelHandler | str = "recipe:find"

    def __init__(self, engine: Engine) -> None:
        self._worker = OpenAIHandler(engine.model, engine.url, "none")
        self._worker.window_tokens = engine.window_tokens

    def answer(self, asked: Asked) -> Answer:
        with tempfile.TemporaryDirectory(prefix="quality-") as folder:
            result = run(asked.question, asked.text, self.supervisor, self._worker, log_dir=folder)
        used = result.worker_usage
        said = None if result.answer is None else str(result.answer)
        return Answer(said, result.worker_calls, used.input_tokens, used.output_tokens)


class Find(Recipe):
    """*find*, as it ships."""


class FindLess(Recipe):
    """*find* with as few passages as fit one prompt that fills the worker's window."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.supervisor = Code(quality_recipe.asking(engine.window_tokens // TOKENS_OF_A_CALL))
