"""Sampled token ids to text, once an answer is whole.

vLLM does it for each token of each step, in the loop that takes the engine's outputs: a third of
that loop's time, for texts that nobody reads before they are complete.
"""

from collections.abc import Sequence
from typing import Any

CONTEXT_TOKENS = 8
"""Of the prompt's end: what the first token's spelling may depend on."""


class Detokeniser:
    """A fast Hugging Face tokenizer's way back, with the results of vLLM's own."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def text(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str:
        """What these ids add to the prompt's text; special tokens add nothing."""
        if not token_ids:
            return ""
        whole = self._stream(prompt_ids).step(self._tokenizer, list(token_ids))
        if whole is not None:
            return str(whole)
        # They end within a character, which is left out: nobody but the steps knows where.
        stream = self._stream(prompt_ids)
        steps = (stream.step(self._tokenizer, token_id) for token_id in token_ids)
        return "".join(step for step in steps if step is not None)

    def _stream(self, prompt_ids: Sequence[int]) -> Any:
        from tokenizers.decoders import DecodeStream

        return DecodeStream(ids=list(prompt_ids[-CONTEXT_TOKENS:]), skip_special_tokens=True)


def detokeniser_of(tokenizer: Any) -> Detokeniser | None:
    """For a tokenizer as vLLM has it; None for one without a Rust side."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    return Detokeniser(fast) if fast is not None else None
