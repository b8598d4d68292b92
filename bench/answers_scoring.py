"""Score short answers, and the two baselines that a real answer has to beat.

Both baselines are answers to the same questions:

- *shuffled*: the vote of a question where each passage's answer is replaced by what the worker
  said to the prompt of the same rank for another question. What is left is what the voting rules
  alone can do. The other question is the next in a fixed random order (seed SHUFFLE_SEED), so no
  question keeps its own answers.
- *no worker*: of all sentences of the text, the one with the rarest words of the question (the
  largest sum of log(sentences / sentences with the word), the first of equals); the answer is
  its first run of number words if the question begins with "How", else its first run of
  capitalised words that is not at the sentence's start and not in the question. No run: no answer.
"""

from __future__ import annotations

import ast
import json
import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

SHUFFLE_SEED = 1611
MAX_CONTAINED_WORDS = 5  # a longer answer names too much to count as having decided
_ARTICLES = {"a", "an", "the"}
_ASKING = frozenset(
    "a an and are at be by did do does for from had has have he her his how in is it its many "
    "much name of on or she that the their them they this to was were what when where which who "
    "whom whose why with".split()
)
_NUMBERS = (
    r"(?:(?<![\d:])\d[\d,]*(?![\d:])|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|"
    r"twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|\w*score)"
)
_NUMBER_RUN = re.compile(rf"\b{_NUMBERS}(?:(?: and|,)? {_NUMBERS})*\b", re.IGNORECASE)
_NAME_RUN = re.compile(r"(?<=[a-z,;:] )[A-Z][\w'-]*(?: [A-Z][\w'-]*)*")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Question:
    """One line of a questions file; `answers` are all accepted spellings."""

    id: str
    text: str
    answers: tuple[str, ...]
    split: str


def read_questions(path: Path, split: str) -> list[Question]:
    """Return the questions of one `split` ("tune" or "test") in file order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [
        Question(row["id"], row["question"], tuple(row["answers"]), row["split"])
        for row in rows
        if row["split"] == split
    ]


def normalise(answer: str) -> str:
    """Return the words of `answer` in lower case, without articles and punctuation."""
    return " ".join(word for word in _words(answer) if word not in _ARTICLES)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower().replace("'s", ""))


def is_correct(answer: object, accepted: Sequence[str]) -> bool:
    """Tell whether `answer` equals an accepted one, or is short and contains it as whole words.

    A number inside a longer one is another number: "five thousand" is not "five".
    """
    if answer is None:
        return False
    given = normalise(str(answer))
    return any(_holds(given, normalise(wanted)) for wanted in accepted)


def _holds(given: str, wanted: str) -> bool:
    if given == wanted:
        return True
    if len(given.split()) > MAX_CONTAINED_WORDS or f" {wanted} " not in f" {given} ":
        return False
    return set(_NUMBER_RUN.findall(wanted)) <= set(_NUMBER_RUN.findall(given))


def shuffled_partners(count: int) -> list[int]:
    """Return for each of `count` questions the index of another one; seeded, never itself."""
    order = list(range(count))
    random.Random(SHUFFLE_SEED).shuffle(order)
    partners = [0] * count
    for position, index in enumerate(order):
        partners[index] = order[(position + 1) % count]
    return partners


class SentenceBaseline:
    """The baseline without a worker over one text; splitting the text happens once."""

    def __init__(self, text: str) -> None:
        self._sentences = [found.group() for found in _SENTENCE.finditer(text)]
        self._words = [frozenset(_words(sentence)) for sentence in self._sentences]
        self._counts = Counter(word for words in self._words for word in words)

    def answer(self, question: str) -> str | None:
        """Return the name or number next to hand in the best sentence, None if there is none."""
        asked = set(_words(question)) - _ASKING
        total = len(self._sentences)
        rarity = {word: math.log(total / self._counts[word]) for word in asked & set(self._counts)}
        if not rarity:
            return None
        scores = [sum(rarity[word] for word in rarity if word in words) for words in self._words]
        sentence = self._sentences[scores.index(max(scores))]
        if question.startswith("How"):
            number = _NUMBER_RUN.search(sentence)
            return number.group() if number else None
        names = (found.group() for found in _NAME_RUN.finditer(sentence))
        return next((name for name in names if not asked & set(_words(name))), None)


class Vote:
    """The vote of the recipe *find*, run outside the jail on answers that a worker gave."""

    def __init__(self, text: str, window_tokens: int) -> None:
        """`window_tokens` is the worker's window, which bounds the passages.

        Raises FileNotFoundError if distill is installed without its recipes.
        """
        recipe = resources.files("distill.supervisor.recipes") / "find.py"
        tree = ast.parse(recipe.read_text("utf-8"))
        tree.body.pop()  # the last statement runs the recipe, we want its functions
        self._recipe: dict[str, Any] = {"worker_window_tokens": window_tokens}
        exec(compile(tree, "find.py", "exec"), self._recipe)  # noqa: S102  our own file
        self._text = text

    def decide(self, question: str, answers: Sequence[str | None]) -> str | None:
        """Return the winner if the worker had said `answers` to the passages in their order."""
        recipe = self._recipe
        passages, rarity = recipe["choose_passages"](
            self._text, question, [recipe["Source"]("", 0)]
        )
        votes = recipe["collect_votes"](self._text, question, passages, answers, rarity)
        totals = recipe["tally"](votes)
        return totals[0][0] if totals else None
