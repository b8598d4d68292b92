"""What an engine is asked."""

from typing import TypedDict


class Tokens(TypedDict):
    prompt_token_ids: list[int]


def tokens_input(prompt_token_ids: list[int]) -> Tokens:
    return {"prompt_token_ids": prompt_token_ids}
