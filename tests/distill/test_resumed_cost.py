"""A run that goes on has paid what the cut one had, whoever was asked and whoever counted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill import Budget, LMResponse, RunResult, Usage, resume, run
from tests.distill.scripted import SMALL, Messages, Supervisor, Worker, cell, run_bounded

DEAR = {"input": 1000, "output": 1000}
FREE = {"input": 0, "output": 0}


class Silent(Supervisor):
    """Says nothing of tokens."""

    model, endpoint = "boss", "x.example.com"

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        return replace(super().chat(messages, **kw), usage=Usage())


class SilentWorker(Worker):
    model, endpoint = "hand", "x.example.com"

    def chat(self, messages: Messages, **kw: Any) -> LMResponse:
        return replace(super().chat(messages, **kw), usage=Usage())


class Counting(Supervisor):
    model, endpoint = "boss", "x.example.com"


class Below(Supervisor):
    model, endpoint = "below", "x.example.com"


def asked(log: Path, *replies: Any, **options: Any) -> RunResult:
    options = {"budget": Budget(dollars=1000), "limits": SMALL, **options}
    boss = options.pop("boss", Silent)(*replies)
    result: RunResult = run_bounded(
        lambda: run("What?", "some text", boss, SilentWorker(), log_dir=log, **options)
    )
    return result


def test_what_nobody_counted_is_estimated_again(tmp_path: Path) -> None:
    prices = {"models": [{"models": ["*"], **DEAR}]}
    replies = [cell("x = worker('long ' * 2000)"), cell("print(2)")]
    whole = asked(tmp_path / "whole", *replies, cell("FINAL(x)"), prices=prices)
    with pytest.raises(RuntimeError, match="cut"):
        asked(tmp_path / "cut", *replies, RuntimeError("cut"), prices=prices)
    last = Silent(cell("FINAL(x)"))
    resumed = run_bounded(lambda: resume(tmp_path / "cut", last, SilentWorker()))
    assert resumed.answer == whole.answer
    assert whole.dollars is not None
    assert whole.dollars > 5
    assert resumed.dollars == pytest.approx(whole.dollars, rel=0.1)


def test_sub_runs_cost_what_their_own_supervisor_does(tmp_path: Path) -> None:
    prices = {"models": [{"models": ["below"], **DEAR}, {"models": ["boss", "hand"], **FREE}]}
    with pytest.raises(RuntimeError, match="cut"):
        asked(
            tmp_path, cell("x = supervisor('sub', 't')"), RuntimeError("cut"), boss=Counting,
            primitives=["supervisor"], sub_supervisor=Below(cell("FINAL(1)")), prices=prices,
        )  # fmt: skip
    boss = Counting(cell("FINAL(x)"))
    resumed = run_bounded(lambda: resume(tmp_path, boss, SilentWorker(), sub_supervisor=Below()))
    assert (resumed.answer, resumed.dollars) == (1, pytest.approx(15 * 1000 / 1e6))
