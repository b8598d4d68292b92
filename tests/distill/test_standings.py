"""Which supervisor and worker did how well: who is who, what compares, what is drawn."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from distill import score
from distill.standings import Comparison, Standing
from distill.standings_picture import drawn
from distill.standings_table import table
from distill.traces.records import Model, TokenUsage
from tests.distill.written_logs import Told, write

TASKS = "abcdefgh"
NO_TOKENS = TokenUsage(0, 0)


def asked(number: int, **fields: Any) -> Told:
    """A run of the task of this number; the answer that is right is its letter."""
    letter = TASKS[number]
    given = {"answer": letter, "task": letter, "query": f"Which letter is {number}?", **fields}
    return Told(**given)


def compared(folder: Path, *runs: Told, scorer: str = "exact") -> Comparison:
    write(folder, *runs)
    told = score(folder, scorer, labels={letter: letter for letter in TASKS})
    return told.comparisons[scorer]


def names(comparison: Comparison) -> list[str]:
    return [each.name for each in comparison.standings]


def test_the_best_first_with_what_a_run_takes(tmp_path: Path) -> None:
    found = compared(
        tmp_path,
        *(asked(n, id=f"bad{n}", answer="x", supervisor="bad", dollars=None) for n in range(4)),
        *(asked(n, id=f"good{n}", supervisor="good") for n in range(3)),
        asked(3, id="good3", supervisor="good", status="failed", answer=None, elapsed_s=6.0),
    )
    good, bad = found.standings
    assert names(found) == ["good × tiny", "bad × tiny"]
    assert (good.accuracy, good.accuracy_of_all, good.failed) == (1.0, 0.75, 1)
    assert good.interval == pytest.approx((0.4385, 1.0), abs=1e-3), "Wilson, 3 of 3"
    assert (good.dollars, good.dollars_per_right, good.run_s) == (1.0, 1 / 3, 12.0)
    assert (good.iterations, good.worker_usage.input_tokens) == (8, 400)
    assert (bad.accuracy, bad.dollars, bad.dollars_per_right) == (0.0, None, None)
    assert found.is_like_with_like is False, "one has no score of the fourth task"
    assert (found.shared_tasks, found.pairs[0].figures.tasks) == (3, 3)


def test_attempts_at_one_task_do_not_make_it_surer(tmp_path: Path) -> None:
    one = compared(tmp_path / "1", *(asked(n, id=f"r{n}") for n in range(4)))
    many = compared(
        tmp_path / "2", *(asked(n % 4, id=f"r{n}") for n in range(40))
    )  # fmt: skip
    assert many.standings[0].scored == 40
    assert many.standings[0].tasks == 4
    assert many.standings[0].interval == pytest.approx(one.standings[0].interval)


def test_pairs_are_held_against_each_other_task_by_task(tmp_path: Path) -> None:
    """Several attempts count as their mean; ids don't matter, the question and the text do."""
    found = compared(
        tmp_path,
        *(asked(n, id=f"a{n}", supervisor="a") for n in range(5)),
        *(
            asked(n, id=f"b{n}", supervisor="b", answer="x" if n < 3 else TASKS[n])
            for n in range(5)
        ),
        asked(0, id="b0again", supervisor="b"),
        asked(5, id="a5", supervisor="a", text="Of this"),
        asked(5, id="b5", supervisor="b", text="Of that"),
    )
    (pair,) = found.pairs
    assert (pair.first, pair.second) == ("a × tiny", "b × tiny")
    assert pair.figures.tasks == 5
    assert pair.figures.difference == pytest.approx((0.5 + 1 + 1) / 5)
    assert (pair.figures.better, pair.figures.worse, pair.figures.equal) == (3, 0, 2)
    assert pair.figures.p == 0.25
    text = table(found)
    assert "These rest on different tasks, 5 of which all have a score of" in text
    assert "a × tiny against b × tiny, 5 tasks: +0.500" in text


def test_the_same_tasks_are_compared_without_a_caution(tmp_path: Path) -> None:
    runs = [asked(n, id=f"{who}{n}", supervisor=who) for who in "ab" for n in range(3)]
    found = compared(tmp_path, *runs)
    assert found.is_like_with_like
    assert "different tasks" not in table(found)
    assert found.pairs[0].figures.p == 1.0


def test_how_often_the_first_code_ran(tmp_path: Path) -> None:
    """Later turns say nothing of it; a reply without code has not run; no reply is not counted.

    What was running when a driver died counts by what became of it when the run went on.
    """
    told = {"final": ((1, "ok"), (1, "final")), "raised": ((1, "ok"), (1, "error"), (2, "final")),
            "killed": ((1, "lost"),), "none": ((2, "final"),),
            "resumed": ((1, "cut off"), (1, "final"))}  # fmt: skip
    runs = [
        asked(number, id=f"r{number}", cells=cells)
        for number, cells in enumerate((*told.values(), told["final"], ()))
    ]
    found = compared(tmp_path, *runs)
    (standing,) = found.standings
    assert standing.code_ran == 3 / 6
    assert standing.code_ran_interval == pytest.approx((0.1876, 0.8124), abs=1e-3), "Wilson"
    assert "0.500  0.188–0.812" in table(found)


BASE = Model("smol", weights_hash="aa" * 32)
ONE = Model(
    "smol", weights_hash="aa" * 32, adapter="legal", weights_version=1, adapter_hash="1f" * 32
)
TWO = Model(
    "smol", weights_hash="aa" * 32, adapter="legal", weights_version=2, adapter_hash="2f" * 32
)
ELSE = Model(
    "smol", weights_hash="aa" * 32, adapter="legal", weights_version=2, adapter_hash="3f" * 32
)


def test_weights_that_differ_are_other_workers(tmp_path: Path) -> None:
    def told(number: int, model: Model | None, **fields: Any) -> Told:
        return asked(0, id=f"r{number}", worker="legal", model=model, **fields)

    found = compared(
        tmp_path, told(1, BASE), told(2, ONE), told(3, ONE), told(4, TWO), told(5, ELSE),
        told(6, BASE, asks="smol", answer="x"), told(7, None, answer="x"),
    )  # fmt: skip
    assert {each.worker: each.ended for each in found.standings} == {
        "smol": 1, "smol + legal v1": 2, "smol + legal v2 (2f2f2f2f)": 1,
        "smol + legal v2 (3f3f3f3f)": 1, "legal": 2,
    }  # fmt: skip


def test_a_run_that_asked_nobody_is_its_workers_as_well(tmp_path: Path) -> None:
    """Else those that a supervisor answers by itself would count for nobody."""
    runs = [asked(n, id=f"r{n}", worker="legal", model=ONE if n else None) for n in range(3)]
    assert names(compared(tmp_path, *runs)) == ["boss × smol + legal v1"]


def test_replays_are_one_supervisor(tmp_path: Path) -> None:
    runs = [asked(n, id=f"r{n}", supervisor=f"replay:x{n}") for n in range(3)]
    (standing,) = compared(tmp_path, *runs).standings
    assert (standing.supervisor, standing.ended) == ("replay", 3)


HOSTILE = '</text><script>alert(1)</script>\x1b[2J\x00\ufffe"&' + "long " * 40


def test_a_picture_is_whole_whatever_the_names_are(tmp_path: Path) -> None:
    found = compared(
        tmp_path,
        *(asked(n, id=f"a{n}", supervisor=HOSTILE) for n in range(3)),
        *(asked(n, id=f"b{n}", supervisor=HOSTILE + "b", dollars=None) for n in range(2)),
    )
    text = drawn(found, "exact")
    root = ET.fromstring(text)
    kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert kinds == {"svg", "rect", "line", "text"}
    said = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert sum("<script>" in each for each in said) == 2 * 2, "each name in each row of panels"
    assert any("only 2 are shared by all" in each for each in said)
    assert "dollars" in said
    shown = table(found)
    assert "\x1b" not in shown
    assert "\x00" not in shown


def test_a_picture_of_nothing_scored(tmp_path: Path) -> None:
    nothing = Standing(
        supervisor="a", worker="b", tasks=0, ended=0, answered=0, unanswered=0, failed=0, scored=0,
        right=0, accuracy=None, interval=None, accuracy_of_all=None, iterations=0, run_s=0.0,
        supervisor_usage=NO_TOKENS, worker_usage=NO_TOKENS, judge_usage=None,
        worker_calls=0, dollars=0.0, dollars_per_right=None,
    )  # fmt: skip
    empty = Comparison([nothing], 0, True, [])
    assert ET.fromstring(drawn(empty, "exact")) is not None
    assert "–" in table(empty)
