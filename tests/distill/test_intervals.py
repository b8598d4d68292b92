"""Intervals and tests of means and differences, against figures that others have printed."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.intervals import effective_count, paired, sign_test, wilson


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        # Newcombe 1998 ("Two-sided confidence intervals for the single proportion"), table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_newcombe_prints_it(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right / count, count) == pytest.approx((low, high), abs=5e-5)


@given(st.floats(0, 1), st.floats(1, 1e6))
def test_an_interval_holds_the_mean_and_stays_between_0_and_1(mean: float, count: float) -> None:
    low, high = wilson(mean, count)
    assert 0 <= low <= mean + 1e-9
    assert mean - 1e-9 <= high <= 1
    assert high > low


def test_attempts_at_one_task_count_as_one() -> None:
    assert effective_count([1] * 7) == 7
    assert effective_count([10]) == 1
    assert effective_count([5, 5, 5]) == pytest.approx(3)
    assert 1 < effective_count([9, 1]) < 2


def test_the_sign_test_against_all_tosses() -> None:
    for better, worse in itertools.product(range(7), repeat=2):
        tosses = better + worse
        ways = [math.comb(tosses, heads) for heads in range(tosses + 1)]
        as_uneven = [
            count for heads, count in enumerate(ways)
            if abs(2 * heads - tosses) >= abs(better - worse)
        ]  # fmt: skip
        assert sign_test(better, worse) == pytest.approx(sum(as_uneven) / 2**tosses)
    assert sign_test(5000, 5100) == pytest.approx(0.325, abs=0.01), "also of many"


def test_a_difference_with_its_interval() -> None:
    # Bentur et al. 2009 as in Fagerland, Lydersen and Laake 2014 (Stat. Med. 33): of 21 pairs 7
    # differ one way and 1 the other; Wald's interval with Bonett and Price's adjustment.
    figures = paired([1.0] * 7 + [-1.0] + [0.0] * 13)
    assert (figures.tasks, figures.better, figures.worse, figures.equal) == (21, 7, 1, 13)
    assert figures.difference == pytest.approx(6 / 21)
    assert figures.interval == pytest.approx((0.013, 0.508), abs=1e-3)
    assert figures.p == pytest.approx(2 * 9 / 2**8)
    alike = paired([0.0] * 20)
    assert alike.interval[0] < 0 < alike.interval[1], "no difference seen is not none"
    assert alike.p == 1
    assert paired([1.0] * 5).interval[1] <= 1


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50))
def test_the_other_way_round_is_the_same(differences: list[float]) -> None:
    one, other = paired(differences), paired([-each for each in differences])
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))
    assert (one.better, one.worse, one.p) == (other.worse, other.better, other.p)
