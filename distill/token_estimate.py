"""How many tokens a request may take, before anybody has counted them."""

from collections.abc import Iterable

CHARS_PER_TOKEN = 3
DEFAULT_COMPLETION_TOKENS = 256


def estimated_tokens(chars: int, max_tokens: int | None) -> int:
    """Tokens of a prompt of so many characters and of its completion, roughly."""
    return chars // CHARS_PER_TOKEN + (max_tokens or DEFAULT_COMPLETION_TOKENS)


MESSAGE_TOKENS = 8
"""What a chat template adds to a message."""


def prompt_tokens(texts: Iterable[str]) -> int:
    """Tokens of the messages of a prompt, rather more than less.

    By bytes: a text in other letters than Latin ones takes more tokens than its characters say.
    """
    return sum(
        len(text.encode("utf-8", "surrogatepass")) // CHARS_PER_TOKEN + MESSAGE_TOKENS
        for text in texts
    )
