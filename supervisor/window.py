"""Asking a model whose context window ends: turns are left out before, or when it says so."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from distill.errors import ModelError, WindowError, WorkerError
from distill.supervisor.conversation import Conversation

T = TypeVar("T")

FULL = 3 / 4
"""Of the window: what is over is left for the reply."""
SHORTENED = 1 / 2
"""Of the window, or of what did not fit: what a conversation is shortened to."""


async def asked(
    conversation: Conversation,
    ask: Callable[[list[dict[str, str]]], Awaitable[T]],
    window_tokens: int | None,
    variables: Mapping[str, Any],
) -> T:
    """What ``ask`` gives for the conversation, shortened as often as need be.

    ``variables`` are the names in the REPL, by which the model knows what is still there.

    Raises WindowError when it does not fit even without all that can be left out, and what
    ``ask`` raises.
    """
    if window_tokens and conversation.tokens() > FULL * window_tokens:
        conversation.compact(int(SHORTENED * window_tokens), variables, "window")
    while True:
        try:
            return await ask(conversation.request())
        except ModelError as error:
            if not _is_too_long(error):
                raise
            limit_tokens = int(SHORTENED * conversation.tokens())
            if not conversation.compact(limit_tokens, variables, "endpoint"):
                raise _too_long_still(error, conversation) from error


def _is_too_long(error: ModelError) -> bool:
    if isinstance(error, WorkerError):
        return error.kind == "too_long"
    return isinstance(error, WindowError)


def _too_long_still(error: ModelError, conversation: Conversation) -> WindowError:
    failure = WindowError(
        f"{error}. Nothing more can be left out of the conversation (some "
        f"{conversation.tokens():,} tokens): take a supervisor with a larger window, or a shorter "
        "question, prompt or --output-limit"
    )
    failure.attempts = error.attempts
    return failure
