"""bench/quality asks what its texts answer: what was put in, and nothing that was there before."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
FAMILIES = ("needle", "two hops", "counting")


@pytest.fixture(scope="module")
def tasks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quality_tasks", BENCH / "quality_tasks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("split", ["test", "tune"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("number", range(3))
def test_a_task_can_be_answered_from_its_text_alone(
    tasks: ModuleType, split: str, family: str, number: int
) -> None:
    """Its facts stand in the text, its names nowhere in the original, its answer in the facts."""
    task = tasks.make(split, family, 100_000, number, seed=7)
    assert len(task.text) == pytest.approx(100_000, rel=0.02)
    assert all(task.text.count(fact) == 1 for fact in task.facts)
    if family == "counting":
        assert len(task.facts) == int(task.answers[1])
    else:
        assert task.answers[0] in " ".join(task.facts)
    original = tasks.TEXT.read_text("utf-8")
    named = re.findall(r"(?<= )[A-Z]\w+", task.question)
    assert named
    assert not any(re.search(rf"\b{name}\b", original) for name in named)


@pytest.mark.parametrize("size_bytes", [100_000, 1_000_000, 10_000_000])
def test_a_text_is_as_long_as_it_is_said_to_be(tasks: ModuleType, size_bytes: int) -> None:
    """Also where the original is shorter: its verses come again under other references."""
    task = tasks.make("test", "needle", size_bytes, 0, seed=1)
    assert len(task.text) == pytest.approx(size_bytes, rel=0.02)
    lines = task.text.splitlines()
    assert len(set(lines)) == len(lines)


def test_the_same_arguments_make_the_same_task(tasks: ModuleType) -> None:
    """And another seed another one."""
    first, again, other = (
        tasks.make("test", "two hops", 100_000, 0, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.text != other.text


def test_the_halves_share_no_template(tasks: ModuleType) -> None:
    """What was looked at while the bench was made is not what it reports."""
    for family in FAMILIES:
        tune, test = (
            {fact for each in tasks.TEMPLATES[family, split] for fact in each.facts}
            for split in ("tune", "test")
        )
        assert not tune & test
