"""How many tokens a request may take, before anybody has counted them."""

CHARS_PER_TOKEN = 3
DEFAULT_COMPLETION_TOKENS = 256


def estimated_tokens(chars: int, max_tokens: int | None) -> int:
    """Tokens of a prompt of so many characters and of its completion, roughly."""
    return chars // CHARS_PER_TOKEN + (max_tokens or DEFAULT_COMPLETION_TOKENS)
