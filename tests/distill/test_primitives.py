"""Primitives: a budget each, and a mark on those that can send data out, shown and logged."""

import functools
import logging
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

from distill import REPL, primitive
from distill.errors import InputError
from distill.primitives import BUDGET, Budgets, BudgetSpentError, Terms, terms_of
from tests.distill.conftest import Ask
from tests.distill.scripted import Supervisor, Worker, cell

CALLS = """
done = 0
try:
    while True:
        look('x'); done += 1
except Exception as error:
    print(done, type(error).__name__, error)
"""


def look(word: str, limit: int = 3) -> str:
    """Look a word up."""
    return word * limit


class Index:
    """Something with a method."""

    @primitive(budget=7, egress=False)
    def lookup(self, word: str) -> str:
        """Look it up."""
        return word


@pytest.mark.parametrize(
    ("function", "terms"),
    [
        (look, Terms(BUDGET, None)),
        (primitive(look), Terms(BUDGET, None)),
        (primitive(budget=5)(look), Terms(5, None)),
        (primitive(egress=True)(look), Terms(BUDGET, True)),
        (primitive(egress=False)(primitive(budget=9)(look)), Terms(BUDGET, False)),
        (primitive(budget=2, egress=False)(math.sqrt), Terms(2, False)),
        (primitive(budget=2, egress=False)(functools.partial(look, limit=1)), Terms(2, False)),
        (primitive(budget=2, egress=False)("a".join), Terms(2, False)),
        (Index().lookup, Terms(7, False)),
    ],
)
def test_anything_callable_has_terms(function: Callable[..., Any], terms: Terms) -> None:
    assert terms_of(function) == terms


def test_marking_changes_nothing_else() -> None:
    marked = primitive(budget=5, egress=True)(look)
    assert marked("ab", limit=2) == "abab"
    assert terms_of(look) == Terms()  # the function itself is the user's, and stays as it was
    assert Index().lookup("a") == "a"


@pytest.mark.parametrize("budget", [0, -1, 1.5, "many", True, None])
def test_what_is_no_budget_is_refused(budget: Any) -> None:
    with pytest.raises(InputError, match="budget"):
        primitive(budget=budget)(look)


def test_over_budget_is_a_limit_error_by_name_and_amount(ask: Ask, logged: Any) -> None:
    supervisor = Supervisor(cell(CALLS), cell(CALLS), cell("FINAL(1)"))
    asked: list[str] = []

    @primitive(budget=3, egress=False)
    def look(word: str) -> None:
        asked.append(word)

    ask(supervisor=supervisor, primitives={"look": look})
    assert asked == ["x"] * 3
    told = "LimitError the budget of look() is used up: 3 calls a run"
    assert f"3 {told}" in supervisor.shown(2)
    assert f"0 {told}" in supervisor.shown(3)  # of the run, not of the cell
    calls = logged().primitives
    assert [(call.args, call.error is None) for call in calls] == [
        (["x"], True), (["x"], True), (["x"], True), (["x"], False), (["x"], False),
    ]  # fmt: skip
    assert "used up" in calls[-1].error


def test_a_killed_jail_does_not_renew_the_budget() -> None:
    with REPL("t", "q", str, list, primitives={"look": primitive(budget=2)(look)}) as repl:
        assert repl.execute("look('x'); import os; os._exit(1)").lost is not None
        # What the killed cell had got is given once more, and is not counted again.
        assert "2 LimitError" in repl.execute(CALLS).stdout


def test_a_restored_cell_spends_nothing() -> None:
    asked: list[str] = []
    with REPL("t", "q", str, list, primitives={"look": primitive(budget=3)(asked.append)}) as repl:
        assert repl.execute("look('a')").error is None
        assert repl.execute("import os; os._exit(1)").lost is not None
        assert "2 LimitError" in repl.execute(CALLS).stdout
    assert asked == ["a", "x", "x"]


def test_the_namespaces_of_a_repl_class_count_too() -> None:
    class Mine(REPL):
        def __init__(self, *args: Any, **kw: Any) -> None:
            super().__init__(*args, **kw)
            self._namespace["look"] = Index().lookup
            self._namespace["plain"] = look

    with Mine("t", "q", str, list) as repl:
        assert repl.terms == {"look": Terms(7, False), "plain": Terms(BUDGET, None)}
        assert "7 LimitError" in repl.execute(CALLS).stdout


def test_plain_functions_have_the_default_budget_and_workers_have_none() -> None:
    with REPL("t", "q", lambda prompt: "w", list, primitives={"look": look}) as repl:
        code = f"for _ in range({BUDGET + 1}): worker('x')\n{CALLS}"
        assert f"{BUDGET} LimitError the budget of look()" in repl.execute(code).stdout


def test_threads_can_not_overdraw() -> None:
    budgets = Budgets({"look": Terms(100)})
    spent: list[int] = []

    def spend() -> None:
        for _ in range(50):
            try:
                budgets.spend("look")
            except BudgetSpentError:
                continue
            spent.append(1)

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(spent) == 100


def test_calls_of_an_earlier_process_are_charged() -> None:
    budgets = Budgets({"look": Terms(3)})
    budgets.charge("look", 2)
    budgets.charge("unknown", 2)
    budgets.spend("look")
    with pytest.raises(BudgetSpentError):
        budgets.spend("look")


def test_the_user_and_the_log_are_told_where_data_can_leave(
    ask: Ask, logged: Any, caplog: pytest.LogCaptureFixture
) -> None:
    primitives = {
        "search": primitive(budget=50, egress=True)(look),
        "lookup": primitive(egress=False)(look),
        "plain": look,
    }
    supervisor = Supervisor(cell("FINAL(1)"))
    with caplog.at_level(logging.WARNING, "distill"):
        ask(supervisor=supervisor, primitives=primitives)
    (told,) = [record.getMessage() for record in caplog.records if record.name == "distill"]
    assert "search: at most 50 calls, can send data out" in told
    assert "lookup: at most 1,000 calls, sends nothing out" in told
    assert "plain: at most 1,000 calls, not marked, so it may send data out" in told
    assert logged().start.options["primitives"] == {
        "search": {"budget": 50, "egress": True},
        "lookup": {"budget": 1000, "egress": False},
        "plain": {"budget": 1000, "egress": None},
    }
    prompt = supervisor.seen[0][0]["content"]
    assert (
        "`search(word: str, limit: int = 3) -> str`: Look a word up. (at most 50 calls)" in prompt
    )


def test_nothing_is_told_where_nothing_can_leave(
    ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "distill"):
        ask(cell("FINAL(1)"), primitives={"look": primitive(egress=False)(look)})
        ask(cell("FINAL(1)"), worker=Worker())
    assert [record for record in caplog.records if record.name == "distill"] == []
