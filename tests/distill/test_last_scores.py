"""Of several scores of one run the last one counts, whether its log or a results line has it."""

from pathlib import Path
from typing import Any

from distill import evaluate, export, score
from distill.errors import InputError
from distill.recorded_results import recorded_in
from tests.distill.scripted import SMALL, Supervisor, Worker, cell, run_bounded


def test_the_last_score_counts_wherever_it_stands(tmp_path: Path) -> None:
    def evaluated(label: str) -> Path:
        task = {"id": "a", "query": "Is it so?", "context": "It is so.", "label": label}
        models = Supervisor(cell("FINAL('yes')")), Worker()
        done: Any = run_bounded(
            lambda: evaluate([task], *models, results=tmp_path / "t.jsonl", limits=SMALL)
        )
        log_dir: Path = done.log_dir
        return log_dir

    def counts(log: Path) -> tuple[Any, set[Any]]:
        (result,) = score(log).results["exact"]
        return result.score, {value for value in (0, 1) if is_exported(log, value)}

    def is_exported(log: Path, value: int) -> bool:
        where = f"score.exact == {value}"
        try:
            return bool(export(log, format="atif", where=where, dry_run=True).runs)
        except InputError:  # no row is left
            return False

    log = evaluated("no")
    assert counts(log) == (0.0, {0})
    score(log, "exact", labels={"a": "never"})
    assert counts(log) == (0.0, {0})
    evaluated("yes")  # scored anew, not asked anew
    (run,) = recorded_in(log).runs
    assert counts(log) == (1.0, {1})
    score(log, "exact", labels={"a": "no"})
    assert counts(log) == (0.0, {0})
    assert [each.id for each in recorded_in(log).runs] == [run.id]
