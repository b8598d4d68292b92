"""``supervisor(query, …)``: what a cell may hand to another supervisor, checked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distill.errors import BudgetError, InputError
from distill.models import ModelHandler
from distill.primitives import primitive
from distill.question import check_question
from distill.totals import Totals
from distill.traces import Run

AT_ONCE = 4
"""Sub-runs of one level of a tree that are under way at once: each has a jail, with all the memory
that the limits give one. The others wait."""
SUB_RUNS_LIMIT = 100
"""Sub-runs that one run may start."""


@dataclass(frozen=True, slots=True)
class SubQuestion:
    """``context`` None is the text of the run that asks, ``max_iterations`` None as many turns."""

    query: str
    context: Any = None
    max_iterations: int | None = None


class SubRuns(Protocol):
    """What a run needs of its sub-runs (``distill.subruns``, which stands above it)."""

    @property
    def supervisor(self) -> ModelHandler | None:
        """Who writes their code."""

    @property
    def totals(self) -> Totals:
        """What they have used so far."""

    @property
    def running(self) -> int:
        """How many are under way."""

    def ask(
        self, query: Any, context: Any = None, *, contexts: Any = None, max_iterations: Any = None
    ) -> Any:
        """The host's function that starts them."""

    def take_up(self, run: Run) -> None:
        """Go on with those of this run, which was cut off."""

    def stop(self, why: BudgetError) -> None:
        """End those under way, and refuse more; the run goes on without."""

    def end_cell(self, cell: int) -> None:
        """End those of a cell that has ended."""

    async def close(self) -> None:
        """End them all."""


def make(rollout: Any) -> Callable[..., Any] | None:
    """The primitive ``supervisor`` of this run; None where there is no level below it."""
    sub_runs: SubRuns | None = rollout.sub_runs
    if sub_runs is None:
        return None

    @primitive(budget=SUB_RUNS_LIMIT, egress=False)
    def supervisor(
        query: str | list[str],
        context: Any = None,
        *,
        contexts: list[Any] | None = None,
        max_iterations: int | None = None,
    ) -> Any:
        """Hand a question that needs code and several steps to another supervisor like you, with \
a fresh REPL and the same workers; returns its answer. It knows the question and its `context` (a \
str, list or dict; yours unless given), nothing else. A list of questions (`contexts`: a text for \
each) is worked on in parallel, and gives a list. No answer: SubRunError (.answers, .errors).
        """
        return sub_runs.ask(query, context, contexts=contexts, max_iterations=max_iterations)

    return supervisor


def sub_questions(
    query: Any, context: Any, contexts: Any, max_iterations: Any
) -> list[SubQuestion]:
    """What a cell asked, one by one. Raises InputError for what can't be asked."""
    if max_iterations is not None and (
        not isinstance(max_iterations, int)
        or isinstance(max_iterations, bool)
        or max_iterations < 1
    ):
        raise InputError(f"max_iterations is a number of turns from 1 on, not {max_iterations!r}")
    queries: Sequence[Any] = query if isinstance(query, list | tuple) else [query]
    texts: Sequence[Any] = [context] * len(queries)
    if contexts is not None:
        texts = contexts if isinstance(contexts, list | tuple) else ()
        if context is not None or len(texts) != len(queries) or queries is not query:
            raise InputError("contexts is for a list of questions: a list of as many texts")
    asked = [
        SubQuestion(each, text, max_iterations) for each, text in zip(queries, texts, strict=True)
    ]
    for question in asked:
        # The text of the run that asks was checked when that began.
        check_question(question.query, "-" if question.context is None else question.context)
    return asked
