"""The recipes as cells, over workers that are functions: what they ask, and what they answer.

Whether they are right about a real text with a real worker is `bench/answers`' question.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from distill.errors import WorkerBatchError, WorkerError
from distill.protocol.jail_link import CellError
from distill.repl import REPL, UNSET

Worker = Callable[[Sequence[str]], list[str]]
WORDS = "alpha beta gamma delta engine wheel road house river stone".split()
QUESTION = "Who was the captain of the red ship?"


class Cell:
    """Runs one recipe in a real jail; keeps the prompts it sent, its answer and its output."""

    def __init__(self, recipe: str, worker: Worker, window_tokens: int = 2048) -> None:
        self._code = (resources.files("distill.supervisor.recipes") / recipe).read_text("utf-8")
        self._worker = worker
        self._window_tokens = window_tokens
        self.prompts: list[str] = []
        self.printed = ""
        self.error: CellError | None = None

    def run(self, context: Any, query: str = QUESTION) -> Any:
        """The answer, or UNSET with ``error`` set."""
        with REPL(context, query, str, self._worker_batch) as repl:
            repl.namespace["worker_window_tokens"] = self._window_tokens
            result = repl.execute(self._code)
        self.printed, self.error = result.full_stdout, result.error
        return result.answer

    def _worker_batch(self, prompts: Sequence[str], *, max_tokens: int, **_: Any) -> list[str]:
        assert all(len(prompt) / 3 + max_tokens <= self._window_tokens for prompt in prompts)
        self.prompts += prompts
        return self._worker(prompts)


def lost(answers: Sequence[str | None], which: Sequence[int]) -> WorkerBatchError:
    return WorkerBatchError(answers, {at: WorkerError("lost") for at in which}, len(answers))


def long_text(fact: str) -> str:
    chance = random.Random(1)
    words = [" ".join(chance.choices(WORDS, k=9)) + "." for _ in range(5_000)]
    words[2_500] = fact
    return " ".join(words)


def reads_zorblax(prompts: Sequence[str]) -> list[str]:
    asked = [prompt.rsplit("Passage:", 1)[-1] for prompt in prompts]
    return [" Zorblax." if "Zorblax" in passage else " Nothing" for passage in asked]


TEXT = long_text("The captain of the red ship was Zorblax.")


@pytest.mark.parametrize(
    "context",
    [
        pytest.param(TEXT, id="text"),
        pytest.param(TEXT.replace(". ", ".\r\n"), id="lines of Windows"),
        pytest.param([TEXT[:9_000], TEXT], id="list"),
        pytest.param({"a.txt": TEXT[:9_000], "b.txt": TEXT}, id="dict"),
    ],
)
def test_find_asks_many_distinct_passages(context: Any) -> None:
    cell = Cell("find.py", reads_zorblax)
    assert cell.run(context) == "Zorblax"
    assert len(set(cell.prompts)) >= 100
    assert "The captain of the red ship was Zorblax" in " ".join(cell.printed.split())
    assert len(cell.printed) < 2_000  # what a supervisor sees of a cell


def test_find_says_so_when_no_word_occurs() -> None:
    cell = Cell("find.py", reads_zorblax)
    assert cell.run(TEXT, "Quetzalcoatl?") is None
    assert not cell.prompts
    assert "none of the words" in cell.printed


def test_find_votes_without_the_answers_that_failed() -> None:
    def every_other(prompts: Sequence[str]) -> list[str]:
        answers: list[str | None] = [*reads_zorblax(prompts)]
        failed = [at for at, answer in enumerate(answers) if answer == " Nothing"][::2]
        for at in failed:
            answers[at] = None
        raise lost(answers, failed)

    assert Cell("find.py", every_other).run(TEXT) == "Zorblax"


@pytest.mark.parametrize("recipe", ["find.py", "map_reduce.py"])
def test_that_all_calls_failed_is_an_error_not_an_answer(recipe: str) -> None:
    def none(prompts: Sequence[str]) -> list[str]:
        raise lost([None] * len(prompts), range(len(prompts)))

    cell = Cell(recipe, none)
    assert cell.run(TEXT) is UNSET
    assert cell.error is not None
    assert cell.error.name == "WorkerBatchError"


def test_each_passage_of_the_readmes_question_could_change_the_vote() -> None:
    """Where the others are as evenly divided as they can be, any one of them decides."""
    text = (Path(__file__).parents[2] / "examples" / "kjv.txt").read_text("utf-8")
    source = (resources.files("distill.supervisor.recipes") / "find.py").read_text("utf-8")
    namespace: dict[str, Any] = {"worker_window_tokens": 2048}
    exec(source.rsplit("\nFINAL(", 1)[0], namespace)
    question = "Who was Moses' brother?"
    passages, rarity = namespace["choose_passages"](text, question, [namespace["Source"]("", 0)])
    answers = [text[each.start : each.end].split()[-1].title() for each in passages]
    votes = namespace["collect_votes"](text, question, passages, answers, rarity)
    assert len(votes) == len(passages) == 120
    weights = sorted((vote.weight for vote in votes), reverse=True)
    for position, weight in enumerate(weights):
        others = weights[:position] + weights[position + 1 :]
        assert _smallest_lead(others) < weight


def _smallest_lead(weights: list[float]) -> float:
    """How little two sides may be apart that share these votes, as far as some tries find."""
    shuffle = random.Random(1).shuffle
    leads = []
    for _ in range(30):
        sides = [0.0, 0.0]
        last = weights[-30:]
        shuffle(last)
        for weight in (*weights[:-30], *last):
            sides[sides.index(min(sides))] += weight
        leads.append(abs(sides[0] - sides[1]))
    return min(leads)


def test_map_reduce_reads_all_and_ends_with_one_note() -> None:
    def notes(prompts: Sequence[str]) -> list[str]:
        return ["a long note with {braces} " * 200 for _ in prompts]

    cell = Cell("map_reduce.py", notes, window_tokens=512)
    assert cell.run(TEXT, "What {happens}?").startswith("a long note")
    assert sum(prompt.count("Zorblax") for prompt in cell.prompts) >= 1


def test_map_reduce_without_notes_answers_none() -> None:
    assert Cell("map_reduce.py", lambda prompts: ["Nothing." for _ in prompts]).run(TEXT) is None
