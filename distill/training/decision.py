"""Whether a new version of the worker takes its parent's place.

The rule. Both have answered the same held-out tasks. The new version is dropped if the mean
difference of their scores (new less parent), task by task, is below ``-margin``, or if its paired
95 % interval lies wholly below 0; else it is kept.

So with the default margin of 0 no version is kept that did worse on the held-out tasks, however
little and however few they are: to drop one that is as good costs an iteration, to keep one that is
worse costs all that follow. A tie is kept: it may have learnt what the next iteration builds on. A
margin lets through what chance alone explains; the interval then still stops what it does not.
"""

from collections.abc import Mapping

import msgspec

from distill.errors import InputError
from distill.intervals import Interval, Paired, paired
from distill.training.figures import differences


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Kept or dropped, why, and the figures that say so: see ``distill.intervals.Paired``."""

    kept: bool
    why: str
    margin: float
    tasks: int
    difference: float
    interval: Interval
    better: int
    worse: int
    equal: int
    p: float


def decide(new: Mapping[str, float], parent: Mapping[str, float], margin: float) -> Decision:
    """Hold the scores of a version against its parent's. Raises InputError: no task is shared."""
    figures = compare(new, parent)
    low, high = figures.interval
    told = f"{figures.difference:+.3f} ({low:+.3f} to {high:+.3f}), p = {figures.p:.2g}"
    if figures.difference < -margin:
        kept, why = False, f"worse than its parent by more than the margin of {margin:g}: {told}"
    elif high < 0:
        kept, why = False, f"worse than its parent, beyond chance: {told}"
    elif low > 0:
        kept, why = True, told.replace(" (", " over its parent (", 1)
    else:
        kept, why = True, f"not worse than its parent: {told}"
    return Decision(
        kept=kept,
        why=why,
        margin=margin,
        tasks=figures.tasks,
        difference=figures.difference,
        interval=figures.interval,
        better=figures.better,
        worse=figures.worse,
        equal=figures.equal,
        p=figures.p,
    )


def compare(one: Mapping[str, float], other: Mapping[str, float]) -> Paired:
    """The paired figures of two at the tasks that both have. Raises InputError: there is none."""
    found = differences(one, other)
    if not found:
        raise InputError("the two have no task in common that both have a score of")
    return paired(found)
