"""How texts are shared out, over families of runs that no one would think of."""

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from distill.exports.graded import GradedRun
from distill.exports.splits import Sides, sides
from distill.traces import Run, records

DRIVER = records.Producer("driver", "driver", 1)
SHARES = {"train": 0.5, "val": 0.25, "test": 0.25}
FAMILIES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 9), min_size=1, max_size=3),  # texts of a run and its sub-runs
        st.none() | st.integers(0, 3),  # the task that it is an attempt at
    ),
    min_size=1,
    max_size=10,
)
Family = tuple[list[int], int | None]


def runs_of(families: list[Family]) -> list[GradedRun]:
    """The runs with their sub-runs."""
    found = []
    for number, (texts, task) in enumerate(families):
        root = None
        for place, text in enumerate(texts):
            context: Any = records.ContextRef(f"{text:064x}", "text", 1, 1, "none")
            start = records.RunStart(
                t=0.0, run="", producer=DRIVER, query="?", context=context, supervisor="s",
                worker="w", options={}, versions={}, label=None if task is None else f"t{task}",
            )  # fmt: skip
            graded = GradedRun(Run(f"{number}.{place}", Path(), start))
            root = root or graded
            graded.root, graded.is_task = root, task is not None
            found.append(graded)
    return found


def alike(one: GradedRun, other: GradedRun) -> bool:
    is_same_task = one.root.is_task and other.root.is_task and one.task == other.task
    return one.document == other.document or one.root is other.root or is_same_task


@given(FAMILIES, st.integers(0, 99))
def test_what_has_something_in_common_is_on_one_side(families: list[Family], seed: int) -> None:
    runs = runs_of(families)
    shared: Sides = sides(runs, SHARES, seed)
    for one in runs:
        assert shared.of(one) in SHARES
        for other in runs:
            if alike(one, other):
                assert shared.of(one) == shared.of(other)
    assert sides(list(reversed(runs)), SHARES, seed) == shared  # by no order


@given(st.integers(0, 99), st.sets(st.integers(0, 50), min_size=1))
def test_more_runs_move_no_text(seed: int, texts: set[int]) -> None:
    few = runs_of([([text], None) for text in sorted(texts)])
    many = runs_of([([text], None) for text in range(51)])
    before, after = sides(few, SHARES, seed), sides(many, SHARES, seed)
    where = {graded.document: after.of(graded) for graded in many}
    assert all(before.of(graded) == where[graded.document] for graded in few)


def test_shares_are_met_over_many_texts() -> None:
    runs = runs_of([([text], None) for text in range(4000)])
    counts = list(sides(runs, SHARES, seed=1).splits.values())
    for name, share in SHARES.items():
        assert abs(counts.count(name) / 4000 - share) < 0.03  # 4 deviations
