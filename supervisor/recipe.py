"""Supervisors that need no key: a strategy, written as the code a supervisor would write.

A recipe is a file that is the code (``recipes/``), or one that writes it from the question
(``programs/``).
"""

import time
from importlib import import_module, resources
from typing import Any

from distill.errors import InputError, ModelError
from distill.models import LMResponse, Messages, ModelHandler, Usage

PACKAGE = "distill.supervisor.recipes"
PROGRAMS = "distill.supervisor.programs"


def recipe_names() -> list[str]:
    """The recipes that ship with distill, as they are named after ``recipe:``."""
    return sorted(_names(PACKAGE) + _names(PROGRAMS))


def _names(package: str) -> list[str]:
    names = (file.name for file in resources.files(package).iterdir())
    return [n[:-3].replace("_", "-") for n in names if n.endswith(".py") and n[0] != "_"]


class RecipeHandler(ModelHandler):
    """Replies once, with the recipe's code as the cell to run. Raises InputError: no such."""

    endpoint = ""

    def __init__(self, name: str) -> None:
        if name not in recipe_names():
            raise InputError(f"no recipe {name!r}; there are {', '.join(recipe_names())}")
        self.model = f"recipe:{name}"
        module = name.replace("-", "_")
        if name in _names(PROGRAMS):
            self._program = import_module(f"{PROGRAMS}.{module}").program
        else:
            code = (resources.files(PACKAGE) / f"{module}.py").read_text("utf-8")
            self._program = lambda _question: code

    def chat(self, messages: Messages, **_kw: Any) -> LMResponse:
        """The recipe; a second time, what stopped it. Raises ModelError."""
        started_s = time.monotonic()
        if any(message["role"] == "assistant" for message in messages):
            outcome, _, _ = messages[-1]["content"].partition("\nNames: ")
            # A traceback's last line says what it was; all of it is in the log.
            reason = outcome.rstrip().rpartition("\n")[2]
            raise ModelError(f"{self.model} did not finish: {reason}")
        text = f"```repl\n{self._program(question_of(messages)).rstrip()}\n```"
        return LMResponse(text, Usage(), self.model, time.monotonic() - started_s)

    def chat_batch(self, message_batches: Any, **kw: Any) -> list[LMResponse]:
        """Reply to several runs."""
        return [self.chat(messages, **kw) for messages in message_batches]


def question_of(messages: Messages) -> str:
    """What is asked in the first messages of a run, as the native dialect words them."""
    asked = next((each["content"] for each in messages if each["role"] == "user"), "")
    return asked.removeprefix("Question: ").partition("\n\n")[0].strip()
