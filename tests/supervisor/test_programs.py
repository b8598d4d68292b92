"""Recipes that are written from the question: other questions, other code, and it is right."""

from typing import Any

import pytest

from distill import run
from distill.errors import ModelError
from distill.models import Messages
from distill.opening import builder
from distill.supervisor.dialects import DialectName
from distill.supervisor.programs.ledger import KINDS, program
from distill.supervisor.recipe import RecipeHandler, question_of, recipe_names
from tests.distill.scripted import SMALL, Worker

LEDGER = """\
It rained. Torvik of Hallam bought ten sacks of salt for 37 marks. They rested.
Mirela of Dunmore bought two bars of iron for 350 marks. And so it was, for 40 days.
He said: Go. Bersi of Hallam bought six jars of honey for 112 marks."""
PERSON, TOWN = "Torvik of Hallam", "Hallam"
ANSWERS = {"price": "37", "goods": "ten sacks of salt", "count": "2", "sum": "149", "most": "Bersi"}
QUESTIONS = [
    pytest.param(kind, wording.format(person=PERSON, town=TOWN), id=f"{kind}-{number}")
    for kind, told in KINDS.items()
    for number, wording in enumerate(told.wordings)
]


@pytest.mark.parametrize(("kind", "question"), QUESTIONS)
def test_a_question_is_read_as_the_kind_that_it_is(kind: str, question: str) -> None:
    assert program(question) == KINDS[kind].code.format(person=PERSON, town=TOWN)


@pytest.mark.parametrize("kind", KINDS)
def test_the_program_for_a_question_answers_it(kind: str) -> None:
    """In a real jail; the worker is shown the purchase and nothing else."""
    question = KINDS[kind].wordings[-1].format(person=PERSON, town=TOWN)
    worker = Worker(lambda prompt: prompt.rpartition("bought ")[2].partition(" for")[0])
    result = run(question, LEDGER, RecipeHandler("ledger"), worker, limits=SMALL, dialect="brief")
    assert (result.status, result.answer) == ("final", ANSWERS[kind])
    asked = [prompt.splitlines()[1] for prompt in worker.prompts]
    shown = ["Torvik of Hallam bought ten sacks of salt for 37 marks. Goods:"]
    assert asked == (shown if kind == "goods" else [])


def test_a_question_of_no_kind_is_refused() -> None:
    """A name that would end the string that it stands in is no name."""
    for question in ("Who?", "What did x'); import os; ('y pay, in marks?"):
        with pytest.raises(ModelError, match="no program for this question"):
            program(question)


@pytest.mark.parametrize("dialect", ["native", "brief"])
def test_the_question_is_found_in_the_first_messages(dialect: DialectName) -> None:
    build = builder(dialect, show_context_chars=100, max_iterations=3, recursive=False)
    messages: Messages = build("A short text.", "Who was it?")
    assert question_of(messages) == "Who was it?"


def test_recipes_of_both_kinds_are_known() -> None:
    assert {"find", "map-reduce", "ledger"} <= set(recipe_names())


def test_the_brief_dialect_says_what_there_is_in_few_words() -> None:
    facts: dict[str, Any] = {
        "primitives": {"search": "- `search(words)`: finds passages."},
        "models": ["legal"],
        "answer_rules": ["It is a number."],
    }
    told = {}
    for dialect in ("native", "brief"):
        name: DialectName = "brief" if dialect == "brief" else "native"
        build = builder(name, show_context_chars=0, max_iterations=3, recursive=False)
        system, question = build("a\nb {c}", "Why {d}?", **facts)
        told[dialect] = system["content"]
        assert "Why {d}?" in question["content"]
    for word in ("`context`", "`query`", "`worker(prompt", "`FINAL(", "2 lines", "search", "legal"):
        assert word in told["brief"]
    assert "It is a number." in told["brief"]
    assert len(told["brief"]) < len(told["native"]) / 3
