"""What a command prints of a run that has ended, and where there is no answer, why."""

import sys
from typing import Any

import click

from distill.budget import amount, counted
from distill.errors import BudgetError
from distill.run_result import RunResult
from distill.summary import answer_text
from distill.supervisor.text import visible


def print_outcome(result: RunResult, text: str, options: dict[str, Any]) -> None:
    """The answer on stdout, its summary ``text`` on stderr.

    ``options`` are those of the command. Raises BudgetError where there is none that counts.
    """
    if result.status == "unanswered" or (result.answer is None and result.ended_by is not None):
        click.echo(visible(text), err=True)
        raise BudgetError(_no_answer(result, options), budget=result.ended_by or "turns")
    if result.answer is None:
        click.echo(visible(text), err=True)
        raise BudgetError("no answer: nothing in the text was found to answer the question")
    if result.answer_problem is not None:
        # The summary says what is wrong with it.
        click.echo(f"{visible(text)}\n\n{visible(answer_text(result.answer))}", err=True)
        raise BudgetError("no answer that passes: raise --max-iterations, or ask again")
    answer = answer_text(result.answer)
    click.echo(visible(answer) if sys.stdout.isatty() else answer)
    click.echo(f"\n{visible(text)}", err=True)


def _no_answer(result: RunResult, options: dict[str, Any]) -> str:
    """Why there is none, and what to do."""
    kind: Any = result.ended_by or "turns"
    if kind == "turns":
        turns = counted(result.iterations, "turn")
        again = "" if result.replay else ": raise --max-iterations, or ask again"
        return f"no answer within {turns}{again}"
    limit = result.dollars_limit if kind == "dollars" else options.get(f"max_{kind}")
    # Of a run that goes on the log may have it.
    what = "all" if limit is None else f"the {amount(kind, limit)}"
    flag = f"--max-{kind.replace('_', '-')}"
    return f"no answer: {what} of {flag} were used up; raise it, or ask again"
