"""Supervisors that need no key: a strategy, written as the code a supervisor would write.

A recipe is a file that is the code (``recipes/``), or one that writes it from the question
(``programs/``). A line ``SHOTS = False  # switch`` in the code makes another one of it:
``recipe:NAME-shots`` is the same code with that line true. Several are named in the file's order.
"""

import functools
import re
import time
from importlib import import_module, resources
from typing import Any

from distill.errors import InputError, ModelError
from distill.models import LMResponse, Messages, ModelHandler, Usage

PACKAGE = "distill.supervisor.recipes"
PROGRAMS = "distill.supervisor.programs"
SWITCH = re.compile(r"^([A-Z]+) = False(?=  # switch\b)", re.MULTILINE)


def recipe_names() -> list[str]:
    """The recipes that ship with distill, as they are named after ``recipe:``."""
    return sorted([*_codes(), *_names(PROGRAMS)])


def _names(package: str) -> list[str]:
    names = (file.name for file in resources.files(package).iterdir())
    return [n[:-3].replace("_", "-") for n in names if n.endswith(".py") and n[0] != "_"]


@functools.cache
def _codes() -> dict[str, str]:
    """The recipes that are code, by their names, those that a switch makes too."""
    codes: dict[str, str] = {}
    for name in _names(PACKAGE):
        file = resources.files(PACKAGE) / f"{name.replace('-', '_')}.py"
        codes |= _switched(name, file.read_text("utf-8"))
    return codes


def _switched(name: str, code: str) -> dict[str, str]:
    codes = {name: code}
    for switch in SWITCH.findall(code):
        line = re.compile(rf"^{switch} = False", re.MULTILINE)
        codes |= {
            f"{before}-{switch.lower()}": line.sub(f"{switch} = True", code, count=1)
            for before, code in codes.items()
        }
    return codes


class RecipeHandler(ModelHandler):
    """Replies once, with the recipe's code as the cell to run. Raises InputError: no such."""

    endpoint = ""

    def __init__(self, name: str) -> None:
        if name not in recipe_names():
            raise InputError(f"no recipe {name!r}; there are {', '.join(recipe_names())}")
        self.model = f"recipe:{name}"
        if name in _names(PROGRAMS):
            self._program = import_module(f"{PROGRAMS}.{name.replace('-', '_')}").program
        else:
            code = _codes()[name]
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
