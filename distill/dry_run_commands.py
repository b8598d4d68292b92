"""``--dry-run``: what a command's question, or its tasks, would ask and cost; nothing is sent."""

import json
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distill.budget import Budget
from distill.dry_run import CountingBackend, Estimate, estimate
from distill.endpoint import host_of
from distill.engine import Engine
from distill.engine_arguments import EngineArguments
from distill.errors import InputError
from distill.first_checks import Asked
from distill.inputs import read_context
from distill.limits import replaced
from distill.supervisors import supervisor_from
from distill.task_commands import unanswered
from distill.task_options import Many
from distill.tasks import Task
from distill.tasks_estimate import TasksEstimate
from distill.worker_settings import SMALL_MODEL, WorkerSettings

SMALL_WINDOW_TOKENS = 8192
"""Of SMALL_MODEL."""
OWN = (
    *("max_iterations", "output_limit", "prices", "primitives", "dialect", "max_depth"),
    "show_context_chars",
)
"""Options of a run that decide what it takes."""


def estimated_here(engine: EngineArguments, asked: Asked) -> Estimate | TasksEstimate:
    """What it would take of the engine that a command asks for; the worker is only named.

    Raises InputError, SandboxError.
    """
    if asked.is_local:
        raise InputError("--dry-run of a local supervisor needs its engine: use `distill run`")
    handler = supervisor_from(asked.supervisor, asked.base_url, check=False)
    encoding = asked.options["encoding"]

    def one(query: str, context: Any, options: dict[str, Any]) -> Estimate:
        return estimate(
            query,
            context,
            handler,
            _named_only(engine.workers),
            budget=Budget.taken_from(options),
            limits=replaced(engine.sandbox.limits, options.get("limits", {})),
            sandbox_packages=engine.sandbox.packages,
            sandbox=engine.sandbox.tier,
            **{name: options[name] for name in OWN},
        )

    def of_task(task: Task) -> Estimate:
        options = {**asked.options, **task.options}
        context = task.context
        if task.paths:
            context, _ = read_context(task.paths, options["encoding"])
        return one(task.query, context, options)

    if asked.many is not None:
        return _added_up(asked.many, of_task)
    context, _ = read_context(asked.paths, encoding)
    return one(asked.query or "", context, dict(asked.options))


def _named_only(settings: WorkerSettings) -> CountingBackend:
    """Stands for the worker."""
    window = settings.window_tokens or (None if settings.model else SMALL_WINDOW_TOKENS)
    where = host_of(settings.url) if settings.url else ""
    return CountingBackend(settings.model or SMALL_MODEL, window, where)


def estimated_by(
    engine: Engine, asked: Asked, paths: Sequence[str], given: dict[str, Any]
) -> Estimate | TasksEstimate:
    """What it would take of an engine that is up. Raises what that does."""

    def of_task(task: Task) -> Estimate:
        options = {**given, **task.options}
        options["limits"] = {**given.get("limits", {}), **task.options.get("limits", {})}
        if task.paths:
            return engine.estimate(task.query, list(task.paths), asked.supervisor, options)
        options.pop("encoding", None)
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            json.dump(task.context, file)
            file.flush()
            options["json"] = True
            return engine.estimate(task.query, [file.name], asked.supervisor, options)

    if asked.many is not None:
        return _added_up(asked.many, of_task)
    return engine.estimate(asked.query or "", list(paths), asked.supervisor, given)


def _added_up(many: Many, of_task: Callable[[Task], Estimate]) -> TasksEstimate:
    """Of the attempts that have no result; some tasks at a time, as they would be run."""

    def named(task: Task) -> Estimate:
        try:
            return of_task(task)
        except InputError as error:
            raise InputError(f"task {task.id!r}: {error}") from error

    left = unanswered(many)
    tasks = [task for task, times in left if times]
    with ThreadPoolExecutor(many.concurrency) as pool:
        estimates = list(pool.map(named, tasks))
    times = [times for _, times in left if times]
    return TasksEstimate(
        len(left), sum(times), list(zip(times, estimates, strict=True)), many.max_dollars_total
    )
