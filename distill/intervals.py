"""How sure a mean of scores is, and the difference of two: 95 % intervals, from counts alone."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Z_95 = 1.96
"""A normal variable is so many standard deviations from its mean, or less, 95 times in 100."""

Interval = tuple[float, float]
"""From, to."""


def wilson(mean: float, count: float) -> Interval:
    """The 95 % interval of a share, ``mean``, of ``count`` independent ones, both above 0.

    Wilson (1927), "Probable inference, the law of succession, and statistical inference", JASA 22.
    Scores between 0 and 1 vary less than those that are 0 or 1, so of them it is rather too wide.
    """
    middle = mean + Z_95**2 / (2 * count)
    half = Z_95 * math.sqrt(mean * (1 - mean) / count + Z_95**2 / (4 * count**2))
    scale = 1 + Z_95**2 / count
    return max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0)


def effective_count(sizes: Iterable[int]) -> float:
    """How many independent scores there are at least, in groups of so many that may be alike.

    Groups of equal sizes count one each: ten attempts at one task say little of another task. It is
    Kish's effective sample size (1965, "Survey Sampling") with the sizes as weights.
    """
    known = list(sizes)
    return sum(known) ** 2 / sum(size**2 for size in known)


@dataclass(frozen=True, slots=True)
class Paired:
    """What the differences between two at the same tasks come to; each is from -1 to 1.

    ``difference`` is their mean, ``interval`` its 95 % interval (Bonett and Price), ``better``,
    ``worse`` and ``equal`` count them, ``p`` is of the exact two-sided sign test: how often chance
    alone would be as uneven.
    """

    tasks: int
    difference: float
    interval: Interval
    better: int
    worse: int
    equal: int
    p: float


def paired(differences: Sequence[float]) -> Paired:
    """The figures of one or more differences.

    The interval is that of Bonett and Price (2012, "Adjusted Wald confidence interval for a
    difference of binomial proportions based on paired data", JEBS 37): the mean's normal interval
    with one task more at which the first is wholly better, and one at which it is wholly worse. So
    it has a width where all differences are 0.
    """
    count = len(differences) + 2
    mean = math.fsum(differences) / count
    variance = (math.fsum(each**2 for each in differences) + 2) / count - mean**2
    half = Z_95 * math.sqrt(variance / count)
    better, worse = sum(each > 0 for each in differences), sum(each < 0 for each in differences)
    return Paired(
        tasks=len(differences),
        difference=math.fsum(differences) / len(differences),
        interval=(max(mean - half, -1.0), min(mean + half, 1.0)),
        better=better,
        worse=worse,
        equal=len(differences) - better - worse,
        p=sign_test(better, worse),
    )


def sign_test(better: int, worse: int) -> float:
    """How often so many fair tosses would be as uneven, or more: exact, two-sided.

    Of scores that are 0 or 1 it is the exact test of McNemar.
    """
    tosses, fewer = better + worse, min(better, worse)
    ways = total = 1
    for place in range(1, fewer + 1):
        ways = ways * (tosses - place + 1) // place
        total += ways
    return min(1.0, 2 * total / (1 << tosses))
