"""``evaluate``: many tasks over one fleet, a run and a sandbox each, to one results file.

::

    tasks ──► attempts that have no result ──► concurrency lanes ──► asker (distill.asking)
                                                     │
              summary ◄── results.jsonl ◄── scorer ◄─┘
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.asking import Asker, Here, through_engine, through_resident
from distill.budget import Budget
from distill.engine import Engine
from distill.errors import InputError
from distill.evaluation_summary import Summary, as_json
from distill.evaluator import EvaluationProgress, Evaluator
from distill.grading import Grading
from distill.models import ModelHandler
from distill.orchestrator import default_log_dir
from distill.redaction import Redaction
from distill.resident import Resident
from distill.scorers import Sample, Scorer, scorer_from
from distill.supervisor import background
from distill.supervisor.backends import Backend
from distill.supervisor.workers import SUPERVISOR_PREFIX
from distill.supervisors import is_replay, supervisor_from
from distill.task_options import CONCURRENCY, CONCURRENCY_LIMIT, SCORER
from distill.task_results import ResultsFile
from distill.tasks import Task, Tasks, fingerprints, read_tasks
from distill.traces.results import TaskResult
from distill.user_folders import write_private

LOG = logging.getLogger("distill")
RESULTS_SUFFIX = ".results.jsonl"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of the tasks: a result for each attempt, in the order of the tasks.

    The traces of all runs are in ``log_dir``, the results in ``results_file``, the summary in
    ``summary_file`` beside it.
    """

    results: list[TaskResult]
    summary: Summary
    results_file: Path
    summary_file: Path
    log_dir: Path


@dataclass(frozen=True, slots=True)
class Places:
    """Where an evaluation writes."""

    results: Path
    summary: Path
    log_dir: Path


def places_of(tasks: Tasks, results: str | Path | None, log_dir: str | Path | None) -> Places:
    """Beside the tasks file, or the results file if one is named; else in a new log folder."""
    if results is None and isinstance(tasks, str | Path):
        results = Path(tasks).with_suffix(RESULTS_SUFFIX)
    if results is None:
        log_dir = Path(log_dir or default_log_dir())
        results = log_dir / "results.jsonl"
    results = Path(results).expanduser().absolute()
    logs = Path(log_dir).expanduser() if log_dir is not None else results.with_suffix(".logs")
    return Places(results, results.with_suffix(".summary.json"), logs.absolute())


async def evaluate_on_loop(
    tasks: Tasks,
    supervisor: ModelHandler | str | None,
    worker: ModelHandler | Backend | Engine | Resident,
    *,
    concurrency: int = CONCURRENCY,
    scorer: str | Callable[[Sample], Any] | Scorer = SCORER,
    results: str | Path | None = None,
    log_dir: str | Path | None = None,
    retry_errors: bool = False,
    max_dollars_total: float | None = None,
    on_progress: Callable[[EvaluationProgress], None] | None = None,
    **options: Any,
) -> Evaluation:
    """Run every attempt at every task, ``concurrency`` at a time, and score the answers.

    ``tasks`` are a JSONL file or a list of ``Task`` (or dicts with its fields). ``worker`` is as
    ``run`` takes it, or an ``Engine``, whose workers then answer and whose driver runs them;
    ``supervisor`` is then a name. ``scorer``: see ``distill.scorers``; tasks without a label are
    not scored. Each attempt is a line of ``results``; an attempt that has a line there is not run
    again (with an error: if ``retry_errors``), one that was cut off goes on from its trace in
    ``log_dir``, which all runs share. Without a name the results are beside the tasks file (its
    name with ``.results.jsonl``), of a list in a new log folder. ``options`` are ``run``'s: a
    ``budget`` is each run's. ``max_dollars_total`` is what all of them may cost, with those that
    have a result already and without judges: once it is used up the runs under way are cut off,
    and BudgetError is raised; what models were answering just then is paid for beyond it.

    A task that fails is a result with an error. Raises InputError for tasks, results or options
    that can't be used, before anything starts; MachineError or ModelError when an engine is lost.
    """
    if not 1 <= concurrency <= CONCURRENCY_LIMIT:
        raise InputError(f"concurrency is 1 to {CONCURRENCY_LIMIT:,}, not {concurrency}")
    total = Budget(dollars=max_dollars_total)  # which checks it
    read = await asyncio.to_thread(read_tasks, tasks)
    places = places_of(tasks, results, log_dir)
    asker = await _asker(supervisor, worker, places.log_dir, options)
    with contextlib.closing(asker):
        for task in read:
            try:
                asker.check(task)
            except InputError as error:
                raise InputError(f"task {task.id!r}: {error}") from None
        chosen = await asyncio.to_thread(scorer_from, scorer)
        redactions = redactions_of(read, options)
        with await asyncio.to_thread(ResultsFile, places.results, redactions) as file:
            grading = Grading(asker, chosen, fingerprints(read), places.log_dir)
            work = Evaluator(read, grading, file, on_progress, total.dollars)
            await work.begin(retry_errors=retry_errors)
            try:
                with _told_once():
                    await work.run(concurrency)
            finally:
                summary = work.summary()
                with contextlib.suppress(OSError):
                    told = _redacted(summary, redactions.values())
                    write_private(places.summary, as_json(told))
    return Evaluation(work.results(), summary, places.results, places.summary, places.log_dir)


def redactions_of(tasks: list[Task], options: Mapping[str, Any]) -> dict[str, Redaction]:
    """What is blotted out of the results, by task: what is of its run.

    Raises InputError for an id that has to be, too: a task is found again by it.
    """
    found = {
        task.id: Redaction.of(task.options.get("redact", options.get("redact"))) for task in tasks
    }
    for id_, redaction in found.items():
        if (told := redaction.text(id_)) != id_:
            raise InputError(
                f"the id of the task {told!r} has what redact is to blot out, and results are kept "
                "by ids: name it otherwise"
            )
    return found


def _redacted(summary: Summary, redactions: Iterable[Redaction]) -> Summary:
    """The summary as it is written: it quotes errors of any task."""
    wanted = dict.fromkeys(pattern for each in redactions for pattern in each.wanted)
    quoted = Redaction(tuple(wanted)).value(summary.first_of_kind)
    return dataclasses.replace(summary, first_of_kind=quoted)


@contextlib.contextmanager
def _told_once() -> Iterator[None]:
    """What each of many runs warns of, alike, is said once."""
    said: set[str] = set()

    def is_news(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        known = message in said
        said.add(message)
        return not known

    LOG.addFilter(is_news)
    try:
        yield
    finally:
        LOG.removeFilter(is_news)


async def _asker(supervisor: Any, worker: Any, log_dir: Path, options: dict[str, Any]) -> Asker:
    is_name = isinstance(supervisor, str)
    if is_replay(supervisor):
        raise InputError("a replay does one recorded run again: tasks need another supervisor")
    if isinstance(worker, Engine):
        if supervisor is not None and not is_name:
            raise InputError("an engine's supervisor is a name: its keys are where it was started")
        return await through_engine(worker, supervisor, log_dir, options)
    is_local = is_name and supervisor.startswith(SUPERVISOR_PREFIX)
    if not isinstance(supervisor, ModelHandler) and not (is_local and isinstance(worker, Resident)):
        supervisor = await asyncio.to_thread(supervisor_from, supervisor)
    if isinstance(worker, Resident):
        return through_resident(worker, supervisor, log_dir, options)
    if not isinstance(worker, ModelHandler | Backend):
        raise InputError(
            f"the worker must be a ModelHandler or an Engine, not {type(worker).__name__}"
        )
    return Here(supervisor, worker, log_dir, options)


evaluate = background.waiting(evaluate_on_loop)
evaluate.__name__ = evaluate.__qualname__ = "evaluate"
evaluate_on_loop.__qualname__ = "evaluate"  # what Python calls it when its arguments are wrong
aevaluate = background.arriving(evaluate_on_loop)
aevaluate.__name__ = aevaluate.__qualname__ = "aevaluate"
