"""Rows as token ids: what the model reads, and what of it is learnt.

Not left to TRL, which cuts what is too long: here a row is dropped, and counted. A prompt is
tokenised as a worker server does it, so that what is trained on is what will be asked.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

UNTRAINED = -100
"""The label of a token that no loss is taken of, as in PyTorch's cross entropy."""


@dataclass(slots=True)
class Tokenised:
    """``rows`` have ``input_ids`` and ``labels``; ``dropped`` counts the others, by reason."""

    rows: list[dict[str, list[int]]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max((len(row["input_ids"]) for row in self.rows), default=0)


def tokenised(rows: Iterable[Mapping[str, Any]], tokenizer: Any, limit_tokens: int) -> Tokenised:
    """Rows with ``prompt`` and ``completion``, as messages or as text, or ``input_ids`` already.

    ``limit_tokens`` bounds prompt and completion together.
    """
    made = Tokenised()
    for row in rows:
        if "input_ids" in row:
            ids, prompt_tokens = row["input_ids"], row["completion_mask"].index(1)
        elif isinstance(row["prompt"], str):
            ids, prompt_tokens = _of_text(row, tokenizer)
        else:
            ids, prompt_tokens = _of_messages(row, tokenizer)
        if prompt_tokens is None:
            made.dropped["the chat template writes a prompt in another way before an answer"] += 1
        elif len(ids) > limit_tokens:
            made.dropped[f"longer than {limit_tokens:,} tokens"] += 1
        else:
            labels = [UNTRAINED] * prompt_tokens + ids[prompt_tokens:]
            made.rows.append({"input_ids": ids, "labels": labels})
    return made


def _of_text(row: Mapping[str, Any], tokenizer: Any) -> tuple[list[int], int]:
    """The prompt's ids, those of the completion, and the end."""
    prompt = row["prompt"]
    ids = tokenizer(prompt)["input_ids"]
    begins = tokenizer.bos_token_id
    if begins is not None and ids[:2] == [begins, begins]:
        ids = ids[1:]  # the text has the token that the tokenizer puts before every text
    answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
    return [*ids, *answer, tokenizer.eos_token_id], len(ids)


def _of_messages(row: Mapping[str, Any], tokenizer: Any) -> tuple[list[int], int | None]:
    """Through the chat template; what it writes after the end of the answer is left out."""
    prompt = tokenizer.apply_chat_template(
        row["prompt"], add_generation_prompt=True, return_dict=False
    )
    ids = tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], return_dict=False)
    if ids[: len(prompt)] != prompt:
        return ids, None
    answer = ids[len(prompt) :]
    while tokenizer.eos_token_id in answer and answer[-1] != tokenizer.eos_token_id:
        answer = answer[:-1]
    return [*prompt, *answer], len(prompt)
