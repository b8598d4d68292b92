"""The REPL of a run, as its options have it."""

from collections.abc import Callable, Mapping
from typing import Any

from distill.primitives import terms_of
from distill.question import Question
from distill.repl import REPL, describe
from distill.run_options import Options
from distill.supervisor.calls import WorkerCalls
from distill.supervisor.context import ContextFile
from distill.supervisor.dialects import Dialect

UNKNOWN_WINDOW_TOKENS = 2048
"""What code is told of a worker whose window nobody knows: little enough for any model."""
SEED_NAMES = ("context", "query", "worker", "worker_batch")


def make_repl(
    options: Options,
    question: Question,
    calls: WorkerCalls,
    *,
    window_tokens: int | None,
    context_file: Callable[[Any], ContextFile],
    functions: Mapping[str, Callable[..., Any]],
) -> REPL:
    """One whose jail has not started; ``functions`` are its primitives, ready ones made."""
    repl = options.repl_class(
        question.context,
        question.query,
        calls.worker,
        calls.worker_batch,
        options.output_limit,
        functions,
    )
    repl.namespace.setdefault("worker_window_tokens", window_tokens or UNKNOWN_WINDOW_TOKENS)
    repl.limits = options.limits or repl.limits
    repl.context_file = context_file
    if options.sandbox != "auto":
        repl.tier = options.sandbox
    repl.packages = tuple(dict.fromkeys((*repl.packages, *options.packages)))
    if rules := options.answer_rules:
        repl.check_answer = lambda answer: rules.problem(answer, question.context)
    repl.itemised = frozenset(("worker", "worker_batch"))
    return repl


def primitive_lines(repl: REPL, dialect: Dialect) -> dict[str, str]:
    """The functions that the prompt must name beside the given ones."""
    return {
        name: f"{describe(name, function)} (at most {terms_of(function).budget:,} calls)"
        for name, function in repl.functions.items()
        if name not in SEED_NAMES and name not in dialect.primitives
    }
