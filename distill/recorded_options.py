"""A run's options in its log: written when it begins, read back when it goes on, or again."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from distill.errors import InputError

Options = TypeVar("Options")

FUNCTIONS = frozenset(("answer_rules", "on_progress", "on_text", "primitives", "repl_class"))
"""What no log can hold: who goes on with a run gives it again."""
LOGGED_APART = frozenset(("packages", "redaction", "sources"))
"""Of these ``run_start`` says more than the option does, or less."""


def logged(options: Any) -> dict[str, Any]:
    """The options (a dataclass) as ``run_start`` has them: by name, all that is data."""
    return {
        field.name: msgspec.to_builtins(getattr(options, field.name))
        for field in dataclasses.fields(options)
        if field.name not in FUNCTIONS | LOGGED_APART
    }


def read_back(kind: type[Options], told: Mapping[str, Any], **given: Any) -> Options:
    """The options of a ``run_start``, but for those that are ``given``.

    One that an older log does not have is its default. Raises InputError for what can't be read.
    """
    hints = typing.get_type_hints(kind)
    try:
        data = {
            field.name: msgspec.convert(told[field.name], hints[field.name])
            for field in dataclasses.fields(kind)  # type: ignore[arg-type]
            if field.name in told and field.name not in given
        }
        return kind(**data, **given)
    except (msgspec.ValidationError, TypeError) as error:
        raise InputError(f"the run's options can't be read from its log: {error}") from error
