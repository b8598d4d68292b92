"""``distill train METHOD --tasks``, once its arguments are read: checked, run, told."""

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from distill import engine_arguments
from distill.asking import check_options
from distill.budget import Budget, counted
from distill.display import Display
from distill.engine_arguments import EngineArguments
from distill.errors import InputError, NoRowsError
from distill.local_supervisor import check_local
from distill.models import ModelHandler
from distill.rates import UNLIMITED
from distill.scorers import scorer_from
from distill.supervisor.text import visible
from distill.supervisor.workers import SUPERVISOR_PREFIX
from distill.supervisors import DEFAULT_SUPERVISOR, asks_endpoint, is_replay, supervisor_from
from distill.task_options import SCORER
from distill.tasks import Task, read_tasks
from distill.training import loop_page, methods, rows
from distill.training import plan as plans
from distill.training.alone import alone
from distill.training.command import OF_EXPORTS, settings_of
from distill.training.devices import may_be_among
from distill.training.examiner import Examiner
from distill.training.extra import check_extra
from distill.training.iterations import Came, Loop
from distill.training.loop_options import LoopOptions, for_trainings
from distill.training.loop_report import Report, report_of, table
from distill.training.method import Method
from distill.training.opd import Opd
from distill.training.plan import Plan
from distill.training.settings import LORA_RANK
from distill.training.task_sets import TaskSets
from distill.training.trainer import TrainerProcess
from distill.training.weights import rank_of, resolved
from distill.training.workers import EngineOfItsOwn
from distill.worker_server import gpus
from distill.worker_server.model import ModelFolder
from distill.worker_settings import DEFAULT_MODEL

NO_SUCH = {
    "worker_url": None,
    "chat_template": None,  # a training has that of the model's folder, and no other
    "adapters": (),
    "listen": None,
    "only_joined": False,
    "ray": None,
    "num_workers": None,
    "gpus_per_worker": None,
    "cores_per_worker": None,
    "supervisor_gpus": None,
    "supervisor_cores": None,
    "metrics_port": None,
}
"""Options of an engine that a loop's does not have."""


def run(method: str, given: LoopOptions, options: dict[str, Any]) -> int:
    """Run the loop, and tell what came of it on stdout; the exit code."""
    check_extra()
    plan = _plan(method, given, options)
    rows.of(plan).check()
    learns = _check_training(method, options)
    sets = _read(given)
    if method == "rl":
        _check_attempts(given.tasks, sets.training)
    sets.apart()
    supervisors = _Supervisors(plan)
    engine = _engine(given, plan, options["lora_rank"])
    out: Path = options["out"].expanduser().absolute()
    base = resolved(given.engine["worker"])
    if isinstance(learns, Opd) and learns.teacher is not None:
        resolved(learns.teacher)
    plan = plans.of_model(plan, base)
    with alone(out, "loop"):
        plans.begin(out, plan)
        with Display() as display, EngineOfItsOwn(engine, display, display.line) as workers:
            asking = Examiner(
                out,
                workers,
                supervisors,
                display,
                scorer=plan.scorer,
                concurrency=given.concurrency,
            )
            trainer = _trainer(plan, base, engine, workers, options["device"])
            display.line(to_do(plan, sets))
            loop = Loop(plan, out, sets, base, asking, trainer, display)
            with _said_how_to_go_on(out, display):
                came = loop.run(lambda came: loop_page.write(out, _report(out, plan, came)))
        report = _report(out, plan, came)
        page = loop_page.write(out, report)
    _tell(report, page)
    return 0


def _trainer(
    plan: Plan,
    base: ModelFolder,
    engine: EngineArguments,
    workers: EngineOfItsOwn,
    device: str | None,
) -> TrainerProcess:
    trainer = TrainerProcess(plan.method, str(base.path), plan.training)
    if shares_gpu(engine, device):
        trainer = replace(trainer, make_room=workers.make_room)
    return trainer


def to_do(plan: Plan, sets: TaskSets) -> str:
    """How much a loop runs, the finished steps included, in a line."""
    workers = ["the worker as it is"]
    workers += [counted(len(plan.baselines), "baseline")] if plan.baselines else []
    workers += [counted(plan.iterations, "version")]
    workers += ["the oracle"] if plan.labels == "oracle" else []
    share = sets.training[: plan.tasks_per_iteration]
    trainings = plan.iterations + (plan.labels == "oracle")
    tried = 1 + len(plan.baselines) + trainings
    parts = [
        f"{_amount(sets.held_out, 'held-out task')} × {tried} ({', '.join(workers)})",
        f"{_amount(share, 'training task')} × {plan.iterations}",
        counted(trainings, "training"),
    ]
    if sets.whole_runs:
        parts.append(f"{_amount(sets.whole_runs, 'task')} of whole runs × 2")
    return f"To do       {' · '.join(parts)}"


def _amount(tasks: Sequence[Task], noun: str) -> str:
    runs = sum(task.attempts for task in tasks)
    return counted(len(tasks), noun) + (f" ({runs:,} runs)" if runs != len(tasks) else "")


def _tell(report: Report, page: Path) -> None:
    """Tell what came of it. Raises NoRowsError: of no version there are weights."""
    click.echo(visible(table(report)))
    if report.serve:
        click.echo(visible(f"Worker      {report.serve}"), err=True)
    click.echo(f"Report      {page}", err=True)
    if not report.trainings.keys() - {"oracle"}:
        raise NoRowsError(f"no version could be trained; the last: {report.versions[-1].why}")


def _report(out: Path, plan: Plan, came: Came) -> Report:
    return report_of(out, plan, came, shlex.join(["distill", *sys.argv[1:]]))


def _plan(method: str, given: LoopOptions, options: dict[str, Any]) -> Plan:
    """What is to be done. Raises InputError."""
    if given.held_out is None:
        raise InputError("--tasks needs --held-out FILE: tasks that are never trained on")
    selection, training = for_trainings(options)
    if given.labels == "oracle" and method != "sft":
        raise InputError("--labels oracle is of sft: a label is a text, and no sampled answer")
    if given.labels == "oracle" and options.get("exact"):
        raise InputError("--labels oracle teaches texts, and no sampled ids: leave out --exact")
    scorer = options.get("scorer") or SCORER
    scorer_from(scorer)
    supervisor = given.supervisor or DEFAULT_SUPERVISOR
    return Plan(
        method=method,
        tasks=str(given.tasks),
        tasks_sha256=plans.digest(given.tasks),
        held_out=str(given.held_out),
        held_out_sha256=plans.digest(given.held_out),
        iterations=given.iterations,
        supervisor=supervisor,
        collect_with=given.collect_with or supervisor,
        baselines=tuple(dict.fromkeys(given.baselines)),
        whole_runs=None if given.whole_runs is None else str(given.whole_runs),
        whole_runs_sha256=plans.digest(given.whole_runs),
        whole_runs_with=given.whole_runs_with or supervisor,
        scorer=scorer,
        labels=given.labels,
        margin=given.margin,
        tasks_per_iteration=given.tasks_per_iteration,
        worker=given.engine["worker"] or DEFAULT_MODEL,
        adapter=None if options["adapter"] is None else str(options["adapter"]),
        window_tokens=given.engine["window_tokens"],
        limits=given.engine["limits"],
        sandbox_packages=given.engine["sandbox_packages"],
        base_url=given.base_url,
        selection=selection,
        training=training,
    )


def _check_training(name: str, options: dict[str, Any]) -> Method:
    """The method, as each training will have it, checked. Raises InputError."""
    others = {name: value for name, value in options.items() if name not in ("runs", *OF_EXPORTS)}
    method = methods.taken_from(name, others)
    settings_of(others)
    method.check_options()
    return method


def _read(given: LoopOptions) -> TaskSets:
    """The tasks of all files, each with a label. Raises InputError."""
    files = (given.tasks, given.held_out, given.whole_runs)
    return TaskSets(*(_labelled(file) if file is not None else () for file in files))


def _labelled(file: Path) -> list[Task]:
    tasks = read_tasks(file)
    for task in tasks:
        place = f"{file}, task {task.id!r}"
        if task.label is None:
            raise InputError(f"{place}: it has no label, so nothing can be learnt of it")
        if "adapter" in task.options:
            raise InputError(f"{place}: which adapter answers is the loop's to say")
        try:
            check_options(task.options)
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
    return tasks


def _check_attempts(file: Path, tasks: Sequence[Task]) -> None:
    """Raise InputError for a task whose answer would have no other to be better than."""
    for task in tasks:
        if task.attempts < 2:
            raise InputError(
                f"{file}, task {task.id!r}: rl learns from answers to the same question that earn "
                'more or less than each other: give each task "attempts", 8 for example, and '
                "have them asked at a temperature (--collect-with)"
            )


class _Supervisors:
    """Those that the plan names, checked at once. Raises InputError, ModelError."""

    def __init__(self, plan: Plan) -> None:
        names = (plan.supervisor, plan.collect_with, *plan.baselines, plan.whole_runs_with)
        self._known = {name: _supervisor(name, plan.base_url) for name in names}
        if plan.base_url is not None and not any(asks_endpoint(name) for name in names):
            raise InputError("--base-url is for a supervisor that is a model of an API")

    def __call__(self, name: str) -> ModelHandler | str:
        return self._known[name]


def _supervisor(name: str, base_url: str | None) -> ModelHandler | str:
    if is_replay(name):
        raise InputError("a replay does one recorded run again: tasks need another supervisor")
    if name.startswith(SUPERVISOR_PREFIX):
        check_local(None, UNLIMITED)
        return name
    return supervisor_from(name, base_url if asks_endpoint(name) else None)


def _engine(given: LoopOptions, plan: Plan, rank: int | None) -> EngineArguments:
    """The engine, with room for the adapters that are trained. Raises InputError, MachineError."""
    rank = rank or (rank_of(Path(plan.adapter)) if plan.adapter else LORA_RANK)
    asked = NO_SUCH | given.engine
    asked["max_lora_rank"] = max(asked["max_lora_rank"] or rank, rank)
    engine = engine_arguments.taken_from(asked, plan.supervisor)
    engine.check_devices(Budget())
    return engine


def shares_gpu(engine: EngineArguments, device: str | None) -> bool:
    """Whether a training on this device may find its memory taken by the engine's servers."""
    own = engine.supervisor.gpus if engine.supervisor is not None else ()
    there = gpus.list_gpus()
    taken = [gpu for server in (*engine.workers.gpus, *own) for gpu in gpus.pick(server, there)]
    if not (engine.workers.gpus or engine.workers.cores):
        taken += there[:1]  # which a worker server takes that is told nothing
    return may_be_among(device, taken, there)


@contextlib.contextmanager
def _said_how_to_go_on(out: Path, display: Display) -> Iterator[None]:
    """Whoever stops it, or reads why it stopped, hears what stays."""
    try:
        yield
    except BaseException:
        display.line(f"What is finished is in {out}; the same command goes on from there")
        raise
