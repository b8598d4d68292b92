"""What counts of a run's scores: those in its log, and the one in an evaluation's results."""

from collections.abc import Mapping

from distill.traces import records
from distill.traces.results import TaskResult


def last_scores(
    appended: Mapping[str, records.Score], told: TaskResult | None
) -> dict[str, records.Score]:
    """What each scorer, by its name, said last of a run.

    ``appended`` are the last records of each in the log, ``told`` is the line of the results; the
    later one counts. What is not from 0 to 1 is no score: a log can say anything. A scorer that
    could not tell has a record of None, or is not there.
    """
    found = {
        name: score
        for name, score in appended.items()
        if score.value is None or 0 <= score.value <= 1
    }
    if told is None or told.scorer is None:
        return found
    before = found.get(told.scorer)
    if before is None or before.t < told.t:
        found.pop(told.scorer, None)
        if isinstance(told.score, float) and 0 <= told.score <= 1:
            found[told.scorer] = _record(told, told.scorer, told.score)
    return found


def _record(told: TaskResult, scorer: str, value: float) -> records.Score:
    return records.Score(
        t=told.t,
        run=told.run_id,
        producer=records.Producer("scorer", scorer, 0),
        scorer=scorer,
        value=value,
        detail=told.score_detail,
        label=told.label,
        usage=told.judge_usage,
    )
