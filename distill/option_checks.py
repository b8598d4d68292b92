"""What can be wrong with the options of a run, seen before anything is made ready for it."""

from collections.abc import Callable
from typing import Any, get_args

from distill.budget import Budget
from distill.errors import InputError
from distill.limits import check
from distill.models import ModelHandler
from distill.opening import Opening, checked, least_opening
from distill.packages import described
from distill.prices import PriceTable
from distill.protocol.sandbox_link import Wanted
from distill.question import Question
from distill.ready_primitives import check_installed, named
from distill.redaction import Redaction
from distill.run_options import Options
from distill.run_repl import SEED_NAMES
from distill.spending import check_covers_a_turn
from distill.supervisor import dialects
from distill.supervisor.answer_cache import AnswerCaching
from distill.supervisor.backends import Backend
from distill.supervisor.dialects import Dialect, DialectName
from distill.supervisor.text import printable

MAX_DEPTH = 4
"""Levels of sub-runs: each may have ``sub_questions.AT_ONCE`` jails at once."""


def check_options(options: Options, label: str | None, messages: Opening | None) -> None:
    """Raise InputError for options that no run can be begun with."""
    if label is not None and printable(label) != label:
        raise InputError("the label has a lone surrogate: it was not decoded as it was written")
    shown = options.show_context_chars
    if shown < 0 or (shown and messages is not None):
        raise InputError(
            "show_context_chars is a number of characters from 0 on, and for the prompt that is "
            "built: messages= are sent as they are"
        )
    if messages is not None and not callable(messages):
        checked(messages)
    if options.limits is not None:
        check(options.limits)
    if options.max_iterations < 1:
        raise InputError("max_iterations must be at least 1")
    if not 0 <= options.max_depth <= MAX_DEPTH:
        raise InputError(
            f"max_depth, levels of sub-runs, is 0 to {MAX_DEPTH}, not {options.max_depth}"
        )
    if options.output_limit < 100:
        raise InputError("output_limit must be at least 100 characters")
    _check_choice("sandbox", options.sandbox, Wanted)
    _check_choice("answer_cache", options.answer_cache, AnswerCaching)
    check_redaction(options.answer_cache, options.redaction)
    described(options.packages)


def check_redaction(answer_cache: AnswerCaching, redaction: Redaction) -> None:
    """Raise InputError for a cache that would keep what is to be redacted."""
    if answer_cache == "shared" and redaction:
        raise InputError(
            "an answer cache that runs share keeps prompts and answers as they are, and redact "
            'wants none of them written so: use answer_cache="run"'
        )


def _check_choice(name: str, given: Any, choices: Any) -> None:
    if given not in get_args(choices):
        raise InputError(f"{name} is one of {', '.join(get_args(choices))}, not {given!r}")


def chosen_dialect(name: Any) -> Dialect:
    """The dialect of this name. Raises InputError: there is none."""
    _check_choice("dialect", name, DialectName)
    return dialects.dialect(name)


def chosen_primitives(given: Any) -> dict[str, Callable[..., Any] | str]:
    """The functions and ready primitives that were asked for, by the names that cells get."""
    primitives: dict[Any, Any] = named(given)
    for name, value in primitives.items():
        is_named = isinstance(name, str) and name.isidentifier()
        if not (is_named and (callable(value) or isinstance(value, str))):
            raise InputError(f"primitives[{name!r}] must be a function under a name of Python's")
        if name in (*SEED_NAMES, "FINAL"):
            raise InputError(f"primitives[{name!r}] would replace a name that every run has")
    check_installed(primitives)
    return primitives


def with_dialect(
    primitives: dict[str, Callable[..., Any] | str], speech: Dialect
) -> dict[str, Callable[..., Any] | str]:
    """The primitives with those that the dialect needs. Raises InputError: they have its names."""
    if taken := speech.names & primitives.keys():
        raise InputError(f"primitives {sorted(taken)} would replace names of {speech.name}'s")
    return {**speech.primitives, **primitives}


def checked_budget(budget: Any) -> Budget:
    """The budget, or one without limits. Raises InputError: it is none."""
    if not isinstance(budget, Budget | None):
        raise InputError(f"budget must be a distill.Budget, not {type(budget).__name__}")
    return budget or Budget()


def check_first_turn(
    supervisor: ModelHandler | str,
    budget: Budget,
    prices: PriceTable,
    question: Question,
    messages: Opening | None = None,
    *,
    dialect: DialectName,
    show_context_chars: int,
) -> None:
    """Raise InputError where the budget does not cover one turn, whoever the workers are.

    A supervisor's name is that of a model of the engine's own.
    """
    if budget.tokens is None and budget.dollars is None:
        return
    first = least_opening(
        messages,
        question.context,
        question.query,
        dialect=dialect,
        show_context_chars=show_context_chars,
    )
    check_covers_a_turn(supervisor, budget, prices, first)


def check_cache(answer_cache: AnswerCaching, backend: Backend) -> None:
    """Raise InputError for a cache that runs share where nobody knows whose answers it holds."""
    if answer_cache == "shared" and backend.card(None) is None:
        raise InputError(
            "an answer cache that runs share is for workers of this engine: of an endpoint's model "
            'nobody knows whether it is still the same; use answer_cache="run"'
        )
