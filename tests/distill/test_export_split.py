"""How texts are shared out, over families of runs that no one would think of."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.exports.exporting import export
from distill.exports.graded import GradedRun
from distill.exports.reading import part_hashes
from distill.exports.splits import clusters, other_seed, sides
from distill.traces import Run, records
from tests.distill.written_logs import Told, write

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
        root: GradedRun | None = None
        for place, text in enumerate(texts):
            context: Any = records.ContextRef(f"{text:064x}", "text", 1, 1, "none")
            start = records.RunStart(
                t=0.0, run="", producer=DRIVER, query="?", context=context, supervisor="s",
                worker="w", options={}, versions={}, label=None if task is None else f"t{task}",
            )  # fmt: skip
            above = [] if root is None else [root]
            graded = GradedRun(
                Run(f"{number}.{place}", Path(), start), above, is_task=task is not None
            )
            root = root or graded
            found.append(graded)
    return found


def alike(one: GradedRun, other: GradedRun) -> bool:
    is_same_task = one.root.is_task and other.root.is_task and one.task == other.task
    return one.document == other.document or one.root is other.root or is_same_task


@given(FAMILIES, st.integers(0, 99))
def test_what_has_something_in_common_is_on_one_side(families: list[Family], seed: int) -> None:
    runs = runs_of(families)
    shared = sides(clusters(runs), SHARES, seed)
    for one in runs:
        assert shared[one.run.id] in SHARES
        for other in runs:
            if alike(one, other):
                assert shared[one.run.id] == shared[other.run.id]
    assert sides(clusters(reversed(runs)), SHARES, seed) == shared  # by no order


@given(FAMILIES, st.integers(0, 99))
def test_sub_runs_alone_go_where_the_texts_above_them_go(families: list[Family], seed: int) -> None:
    subs = [graded for graded in runs_of(families) if graded.above]
    shared = sides(clusters(subs), SHARES, seed)
    for one in subs:
        for other in subs:
            if alike(one.root, other.root):
                assert shared[one.run.id] == shared[other.run.id]


@given(st.integers(0, 99), st.sets(st.integers(0, 50), min_size=1))
def test_more_runs_move_no_text(seed: int, texts: set[int]) -> None:
    few = runs_of([([text], None) for text in sorted(texts)])
    many = runs_of([([text], None) for text in range(51)])
    before, after = (sides(clusters(runs), SHARES, seed) for runs in (few, many))
    where = {graded.document: after[graded.run.id] for graded in many}
    assert all(before[graded.run.id] == where[graded.document] for graded in few)


@pytest.mark.parametrize("file", ["{outside}", "../../outside", "contexts/pipe", "contexts/bad"])
def test_only_texts_of_the_folder_are_read(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "runs" / "log"
    (folder / "contexts").mkdir(parents=True)
    data = b'["a text", "another"]'
    os.mkfifo(folder / "contexts" / "pipe")  # to read it is to wait for ever
    for good in (folder / "contexts" / "good", tmp_path / "outside"):
        good.write_bytes(data)
    (folder / "contexts" / "bad").write_bytes(b'["changed"]')
    (graded,) = runs_of([([1], None)])
    run, sha256 = replace(graded.run, folder=folder), hashlib.sha256(data).hexdigest()

    def hashes(file: str) -> set[str]:
        ref = records.ContextRef(sha256, "json", len(data), len(data), file)
        return part_hashes(replace(run, start=msgspec.structs.replace(graded.start, context=ref)))

    assert len(hashes("contexts/good")) == 3
    assert hashes(file.format(outside=tmp_path / "outside")) == {sha256}


def test_shares_are_met_over_many_texts() -> None:
    runs = runs_of([([text], None) for text in range(2000)])
    counts = list(sides(clusters(runs), SHARES, seed=1).values())
    for name, share in SHARES.items():
        assert abs(counts.count(name) / 2000 - share) < 0.045  # 4 deviations


def test_another_seed_is_found_where_a_split_is_empty() -> None:
    few = clusters(runs_of([([text], None) for text in range(3)]))
    other = other_seed(few, SHARES, 0)
    assert other is not None
    assert set(sides(few, SHARES, other).values()) == set(SHARES)
    assert other_seed(clusters(runs_of([([1], None)])), SHARES, 0) is None


def test_texts_that_were_redacted_in_different_ways_are_told(tmp_path: Path) -> None:
    """They are other texts to whoever reads the logs."""
    told = "runs are redacted in different ways"
    for folder, others in (("a", ("email",)), ("b", ())):
        write(tmp_path / folder, Told("x"), Told("y", query="And so?", redacted=others))
        made = export(
            tmp_path / folder, format="worker-sft-text", split="train=0.5,test=0.5", dry_run=True
        )
        assert any(each.startswith(told) for each in made.warnings) == bool(others)
