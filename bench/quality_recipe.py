"""The recipes' code, for contestants that are not distill: its functions, or all of it adapted."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parent.parent / "supervisor" / "recipes"
ADAPTER = """\
__builtins__.update(vars(__import__("builtins")))  # this REPL's lack class, frozenset and more
class WorkerBatchError(Exception):
    answers, errors = [], {{}}
query = {question!r}
worker_window_tokens = {window_tokens}
def worker_batch(prompts, **sampling):
    return llm_query_batched(prompts)
def FINAL(value):
    answer["content"] = value
    answer["ready"] = True
"""
"""The names that a recipe uses, made of those of rlms. Sampling is set where the client is."""


def code(recipe: str) -> str:
    """The recipe, as it ships."""
    return (RECIPES / f"{recipe}.py").read_text("utf-8")


def asking(count: int) -> str:
    """*find*, with so many passages asked."""
    return code("find").replace("PASSAGES_ASKED = 120", f"PASSAGES_ASKED = {count}", 1)


def adapted(recipe: str, question: str, window_tokens: int) -> str:
    """The recipe as code for rlms."""
    return ADAPTER.format(question=question, window_tokens=window_tokens) + code(recipe)


def functions(window_tokens: int) -> dict[str, Any]:
    """The functions of *find*; its last statement, which runs it, is left out."""
    tree = ast.parse(code("find"))
    tree.body.pop()
    names: dict[str, Any] = {"worker_window_tokens": window_tokens}
    exec(compile(tree, "find.py", "exec"), names)  # noqa: S102  (our own file)
    return names
