"""Worker calls as token ids: what was read, and what was sampled."""

from collections.abc import Iterator

from distill.exports.exact_tokens import OneTokenizer, why_not
from distill.exports.levels import OF_CALLS
from distill.exports.material import Material
from distill.exports.row import Dropped, Format, Made, OriginRow, origin

UNTRAINED = -100
"""The label of a token that no loss is taken of, as in PyTorch's cross entropy."""


class TokenSftRow(OriginRow, frozen=True, kw_only=True):
    """One worker call, token by token.

    Attributes:
    input_ids: what the model read, then what it sampled; never retokenised
    labels: the same, with -100 where nothing is to be learnt: on the prompt
    completion_mask: 0 on the prompt, 1 on the completion
    finish_reason: `stop` or `length`: whether the completion came to its end
    call: id of the worker call
    model: the model that answered
    adapter: the LoRA adapter that answered; null: the model itself
    weights_version: of the adapter
    weights_hash: SHA-256 of the model's weights
    adapter_hash: SHA-256 of the adapter's files
    tokenizer_hash: SHA-256 of the tokenizer; one in a data set
    """

    input_ids: list[int]
    labels: list[int]
    completion_mask: list[int]
    finish_reason: str | None
    call: str
    model: str
    adapter: str | None
    weights_version: int
    weights_hash: str
    adapter_hash: str
    tokenizer_hash: str


class TokenSft(Format):
    """Nothing is tokenised: about one completion in eight does not re-encode to its own ids."""

    name = "token-sft"
    about = "worker calls as the token ids that were read and sampled, with labels and a mask"
    read_by = "TRL's SFTTrainer (`input_ids`, `labels`), and any trainer of causal language models"
    row = TokenSftRow
    asks = OF_CALLS

    def rows(self, material: Material) -> Iterator[Made | Dropped]:
        """One of each call whose ids are there."""
        tokenizer = OneTokenizer()
        for graded, call in material.calls():
            if (why := why_not(graded, call)) is not None:
                yield Dropped(why)
                continue
            assert call.prompt_token_ids is not None
            assert call.token_ids is not None
            tokenizer.check(call.model)
            prompt, completion = list(call.prompt_token_ids), list(call.token_ids)
            row = TokenSftRow(
                **origin(graded),
                input_ids=prompt + completion,
                labels=[UNTRAINED] * len(prompt) + completion,
                completion_mask=[0] * len(prompt) + [1] * len(completion),
                finish_reason=call.finish_reason,
                call=call.id,
                model=call.model.model,
                adapter=call.model.adapter,
                weights_version=call.model.weights_version,
                weights_hash=call.model.weights_hash,
                adapter_hash=call.model.adapter_hash,
                tokenizer_hash=call.model.tokenizer_hash,
            )
            yield Made(row, graded, (call.prompt, call.response or ""))
