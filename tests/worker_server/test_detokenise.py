"""Texts made at the end of an answer are those that vLLM makes token by token."""

import random
from pathlib import Path
from typing import Any

import pytest

from distill.worker_server.detokenise import Detokeniser, detokeniser_of

PROMPTS = ["", "Answer:", "In the beginning God created the heaven and the earth. " * 20]
TEXTS = ["plain words, 1611.", " naïve — “q” 漢字", "日本語のテキスト", "🙂🙃 🧑‍🚀🏳️‍🌈"]


@pytest.fixture(scope="module")
def tokenizer(model_folder: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(Path(model_folder) / "tokenizer.json"))


def token_by_token(tokenizer: Any, prompt: list[int], ids: list[int]) -> str:
    """As vLLM's FastIncrementalDetokenizer."""
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(ids=prompt, skip_special_tokens=True)
    return "".join(stream.step(tokenizer, token) or "" for token in ids)


def answers(tokenizer: Any) -> list[list[int]]:
    """Whole texts, texts cut within a character, special tokens, and ids at random."""
    drawn = random.Random(0)
    whole = [tokenizer.encode(text).ids for text in TEXTS]
    cut = [ids[:end] for ids in whole for end in range(len(ids))]
    size = tokenizer.get_vocab_size()
    bytes_ = [[drawn.randrange(300) for _ in range(12)] for _ in range(300)]
    wild = [[drawn.randrange(size) for _ in range(12)] for _ in range(300)]
    return [*whole, *cut, *bytes_, *wild]


def test_all_at_once_is_token_by_token(tokenizer: Any) -> None:
    detokeniser = Detokeniser(tokenizer)
    cut_short = 0
    for prompt in PROMPTS:
        prompt_ids = tokenizer.encode(prompt).ids
        for ids in answers(tokenizer):
            text = detokeniser.text(prompt_ids, ids)
            assert text == token_by_token(tokenizer, prompt_ids, ids), ids
            cut_short += text != tokenizer.decode(ids)
    assert cut_short > 10, "the cases must hold some that end within a character"


def test_only_a_tokenizer_with_a_rust_side_is_taken() -> None:
    assert detokeniser_of(object()) is None
