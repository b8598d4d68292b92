"""``--tasks``: many questions put to this command's own engine, or to one that is up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from distill.asking import check_options
from distill.display import Display
from distill.engine import Engine
from distill.errors import InputError
from distill.evaluation import evaluate, places_of
from distill.evaluation_summary import told
from distill.evaluator import EvaluationProgress
from distill.models import ModelHandler
from distill.resident import Resident
from distill.scorers import scorer_from
from distill.supervisor.text import visible
from distill.supervisors import DEFAULT_SUPERVISOR
from distill.task_options import Many
from distill.task_results import ResultsFile
from distill.tasks import Task, fingerprints, read_tasks
from distill.texts import changed_since

OF_ONE_QUESTION = ("label", "resume")
"""Options that many tasks do not have; nor have they --query and --context."""


def check_tasks(many: Many, options: Mapping[str, Any], supervisor: str | None) -> Path:
    """All that can be wrong with them and is cheap to see; where the logs go. Raises InputError.

    ``supervisor`` is its name on the command line.
    """
    for name in OF_ONE_QUESTION:
        if options.get(name) is not None:
            raise InputError(f"--{name} is for one question, not for --tasks")
    tasks = read_tasks(many.tasks)
    for task in tasks:
        try:
            check_options(task.options)
        except InputError as error:
            raise InputError(f"{many.tasks}, task {task.id!r}: {error}") from None
    scorer_from(many.scorer)
    places = places_of(many.tasks, many.results, options.get("log_dir"))
    if places.results.exists():
        with ResultsFile(places.results) as results:
            results.check(tasks, fingerprints(tasks), supervisor or DEFAULT_SUPERVISOR)
    if many.check:
        _check_files(tasks)
        click.echo(f"{len(tasks)} tasks can be run", err=True)
    return places.log_dir if places.log_dir.exists() else places.log_dir.parent


def is_all_done(many: Many) -> bool:
    """Whether every attempt has a result, so that no worker will be asked."""
    return not any(times for _, times in unanswered(many))


def unanswered(many: Many) -> list[tuple[Task, int]]:
    """Each task, and how many attempts at it have no result, or one that is to be had again."""
    tasks, path = read_tasks(many.tasks), places_of(many.tasks, many.results, None).results
    known = set()
    if path.exists():
        with ResultsFile(path) as file:
            known = {
                key
                for key, result in file.results.items()
                if result.error is None or not many.retry_errors
            }
    return [
        (task, sum((task.id, n) not in known for n in range(1, task.attempts + 1)))
        for task in tasks
    ]


def _check_files(tasks: Sequence[Task]) -> None:
    missing = []
    for task in tasks:
        try:
            changed_since(task.paths, 0.0)
        except InputError as error:
            missing.append(f"task {task.id!r}: {error}")
    if missing:
        raise InputError("\n".join(missing))


def ask_all(
    many: Many,
    supervisor: ModelHandler | str | None,
    worker: Engine | Resident,
    options: Mapping[str, Any],
    display: Display,
) -> int:
    """Run them all, and say what came of them; the exit code."""
    last: list[EvaluationProgress] = []

    def tell(progress: EvaluationProgress) -> None:
        last[:] = [progress]
        display.tasks(line(progress))

    display.phase("starting the tasks")
    if isinstance(worker, Engine):
        display.watch(worker.status)
    try:
        done = evaluate(
            many.tasks,
            supervisor,
            worker,
            concurrency=many.concurrency,
            scorer=many.scorer,
            results=many.results,
            retry_errors=many.retry_errors,
            max_dollars_total=many.max_dollars_total,
            on_progress=tell,
            **options,
        )
    except BaseException:
        if last:
            places = places_of(many.tasks, many.results, options.get("log_dir"))
            display.line(
                f"{last[0].done} of {last[0].total} attempts have a result in {places.results}; "
                "the same command goes on from there"
            )
        raise
    display.phase("")
    click.echo(visible(told(done.summary, str(done.results_file), str(done.log_dir))))
    return done.summary.exit_code


def line(progress: EvaluationProgress) -> str:
    """How far it is, in a line."""
    parts = [f"tasks {progress.done}/{progress.total}", f"{progress.running} running"]
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.accuracy is not None:
        parts.append(f"score {progress.accuracy:.2f}")
    parts.append(f"{progress.tokens:,} tokens")
    if progress.dollars:
        parts.append(f"${progress.dollars:,.2f}")
    parts.append(_time(progress.elapsed_s))
    if progress.left_s is not None:
        parts.append(f"about {_time(progress.left_s)} left")
    return " · ".join(parts)


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 100 else f"{hours:.1f} h"
