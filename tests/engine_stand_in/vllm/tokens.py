"""Prompts to token ids and ids to answers, as pure functions. Imports nothing of the package.

An id stands for four bytes of UTF-8, so there are as many ids, and as large ones, as a real
tokenizer gives for English. They don't hold the whole text; its checksum is in the last two.
"""

import itertools
import zlib
from array import array
from collections.abc import Sequence
from typing import Any

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron")
VOCABULARY = 1 << 16


def encode(text: str) -> list[int]:
    """The token ids of ``text``; none for an empty one."""
    data = text.encode()
    if not data:
        return []
    ids = array("H", data + bytes(-len(data) % 4))[::2]
    return [*ids, *divmod(zlib.crc32(data), VOCABULARY)]


def answer_ids(prompt_ids: Sequence[int], words: int) -> list[int]:
    """The answer to a prompt of these ids, as ids: each one of WORDS."""
    # All that differs between two prompts' ids differs here; ids of a caller's own, too.
    seed = zlib.crc32(repr(prompt_ids[-2:]).encode())
    return [seed >> 3 * (word % 10) & 7 for word in range(words)]


def adapted(ids: Sequence[int], changed: int) -> list[int]:
    """The answer that an adapter makes of it; ``changed`` is its file's checksum, 0 for none."""
    return [(each + changed) % len(WORDS) for each in ids] if changed else list(ids)


def decode(ids: Sequence[int]) -> str:
    """The words of an answer."""
    return " ".join(WORDS[each % len(WORDS)] for each in ids)


def answer_to(prompt: str, words: int = 8) -> str:
    """What the engine says to ``prompt``, the text after the chat template."""
    return decode(answer_ids(encode(prompt), words))


def render(messages: Sequence[dict[str, str]], template: str = "") -> str:
    """The chat template: this one, or another, with ``{}`` for what the last message says."""
    if "{" in template:
        return template.format(messages[-1]["content"])
    said = (f"<{message['role']}>{message['content']}\n" for message in messages)
    return "".join(itertools.chain(said, ["<assistant>"]))


class Tokenizer:
    """As much of a Hugging Face tokenizer as ``worker_server.tokenise`` calls."""

    def __init__(self, chat_template: str | None = None) -> None:
        self.chat_template = chat_template

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [encode(text) for text in texts]}

    def __len__(self) -> int:
        return VOCABULARY

    def apply_chat_template(
        self, messages: Sequence[dict[str, str]], *, chat_template: str | None = None, **_: Any
    ) -> str:
        return render(messages, chat_template or self.chat_template or "")

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return decode(ids)
