"""The first messages of a run: those that are built, or what a user gives in their place."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill.brief_prompt import build_brief_prompt
from distill.errors import InputError
from distill.prompts import build_system_prompt
from distill.rlm_prompt import build_rlm_prompt
from distill.supervisor.dialects import DialectName
from distill.supervisor.text import printable

Messages = Sequence[Mapping[str, str]]
Opening = Messages | Callable[..., Messages]
"""As a user gives it: messages, or a function that is called as ``build_system_prompt`` is."""
BuildPrompt = Callable[..., list[dict[str, str]]]

ROLES = ("system", "user", "assistant")


def opening(
    given: Opening | None,
    context: Any,
    query: str,
    build: BuildPrompt = build_system_prompt,
    **facts: Any,
) -> list[dict[str, str]]:
    """The messages that a run begins with; ``facts`` are the keywords of ``build_system_prompt``.

    ``build`` makes them where none are given. Raises InputError for what is no conversation, and
    whatever a function of the user's raises.
    """
    if given is None:
        return build(context, query, **facts)
    return checked(given(context, query, **facts) if callable(given) else given)


def least_opening(
    given: Opening | None,
    context: Any,
    query: str,
    *,
    dialect: DialectName,
    show_context_chars: int,
) -> list[dict[str, str]]:
    """As much of ``opening`` as is known before the workers are; nothing of a user's function."""
    if callable(given):
        return []
    build = builder(
        dialect, show_context_chars=show_context_chars, max_iterations=1, recursive=False
    )
    return opening(given, context, query, build)


def source_of(given: Opening | None) -> str:
    """How the log names where a run's first messages are from."""
    if given is None:
        return "built"
    return "function" if callable(given) else "given"


def builder(
    dialect: DialectName, *, show_context_chars: int, max_iterations: int, recursive: bool
) -> BuildPrompt:
    """What builds the first messages of a run in this dialect, where nobody gives them.

    ``recursive``: the run may have sub-runs.
    """
    if dialect != "rlm":
        build = build_brief_prompt if dialect == "brief" else build_system_prompt
        return functools.partial(build, show_context_chars=show_context_chars)
    return functools.partial(
        build_rlm_prompt,
        show_context_chars=show_context_chars,
        max_iterations=max_iterations,
        recursive=recursive,
    )


def checked(messages: Any) -> list[dict[str, str]]:
    """The messages, copied. Raises InputError for what no supervisor could be asked."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise InputError(
            "messages must be a list of {'role': …, 'content': …}, or a function that returns one, "
            f"not {str(messages)[:100]!r}"
        )
    copied = [_checked(number, message) for number, message in enumerate(messages)]
    if copied[-1]["role"] == "assistant":
        raise InputError("the last of the messages is the supervisor's own: it would have no say")
    return copied


def _checked(number: int, message: Any) -> dict[str, str]:
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        raise InputError(f"messages[{number}] must have a role and a content, and nothing else")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise InputError(f"messages[{number}] has the role {role!r}; it is one of {ROLES}")
    if not isinstance(content, str) or not content.strip():
        raise InputError(f"messages[{number}] must have a text as its content")
    if printable(content) != content:
        raise InputError(f"messages[{number}] has a lone surrogate: it was not decoded as written")
    return {"role": role, "content": content}
