"""``--where`` on runs, and ``--select``: which runs are exported."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from distill.exports.graded import GradedRun
from distill.exports.values import RunValues
from distill.exports.where import Condition

Select = Literal["all", "best", "correct", "shortest"]
SELECTS: tuple[Select, ...] = get_args(Select)
REPLAY = "a replay: the run that it does again counts"
UNSCORED = "not scored (`distill score` does)"


def chosen_runs(
    runs: Iterable[GradedRun],
    conditions: Sequence[Condition],
    select: Select,
    correct_from: float,
) -> tuple[list[GradedRun], Counter[str]]:
    """The runs that are left, and how many were dropped for which reason.

    ``select`` looks at the runs that pass, within each group (the same question about the same
    text): ``best`` has the highest score, ``correct`` are those of at least ``correct_from``,
    ``shortest`` is the one of these with the fewest tokens. Of equals the one with fewer tokens,
    then fewer turns, then the older counts. A replay is neither the best nor the shortest where
    another run can be it. Sub-runs go where their root goes.
    """
    passing: list[GradedRun] = []
    dropped: Counter[str] = Counter()
    of_runs = [each for each in conditions if each.level == "run"]
    for graded in runs:
        env = RunValues(graded).of_run() if of_runs else {}
        failed = next((each for each in of_runs if not each(env)), None)
        if failed is None:
            passing.append(graded)
        else:
            dropped[f"--where {failed.text}"] += 1
    if select == "all":
        return passing, dropped
    roots = {graded.root.run.id: graded.root for graded in passing}
    groups: dict[str, list[GradedRun]] = {}
    for root in roots.values():
        groups.setdefault(root.group, []).append(root)
    verdicts: dict[str, str | None] = {}
    for group in groups.values():
        verdicts |= _verdicts(group, select, correct_from)
    kept = []
    for graded in passing:
        if (verdict := verdicts[graded.root.run.id]) is None:
            kept.append(graded)
        else:
            dropped[verdict] += 1
    return kept, dropped


def _verdicts(
    group: Sequence[GradedRun], select: Select, correct_from: float
) -> dict[str, str | None]:
    """Why a run of the group is dropped, by its id; None: it stays."""
    found: dict[str, str | None] = {}
    candidates = []
    for root in group:
        if root.score is None:
            found[root.run.id] = UNSCORED
        elif select != "best" and root.score < correct_from:
            found[root.run.id] = "not correct"
        else:
            candidates.append(root)
    if select == "correct":
        return found | {root.run.id: None for root in candidates}
    originals = [root for root in candidates if not root.is_replay]
    key = _best if select == "best" else _shortest
    winner = min(originals or candidates, key=key, default=None)
    for root in candidates:
        is_second = root.is_replay and bool(originals)
        found[root.run.id] = REPLAY if is_second else f"not the {select} of its group"
    return found if winner is None else found | {winner.run.id: None}


def _best(root: GradedRun) -> tuple[float, tuple[int, int, float]]:
    assert root.score is not None
    return -root.score, _shortest(root)


def _shortest(root: GradedRun) -> tuple[int, int, float]:
    return root.tokens, len(root.run.turns), root.start.t
