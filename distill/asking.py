"""Who runs a task: this process's driver, or an engine with workers of its own."""

import asyncio
import hashlib
import json
import tempfile
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Protocol

import msgspec

from distill.again import resume_on_loop
from distill.ask_options import AskOptions
from distill.budget import Budget
from distill.engine import Engine
from distill.errors import DistillError, InputError, MachineError
from distill.limits import Limits, replaced
from distill.models import ModelHandler, model_name
from distill.orchestrator import answer_on_loop
from distill.progress import Progress
from distill.protocol.client_link import Ask
from distill.resident import OWN_ASK, Resident
from distill.run_result import RunResult
from distill.supervisor import driver
from distill.supervisor.journal import encode_context
from distill.supervisors import DEFAULT_SUPERVISOR
from distill.tasks import Task
from distill.texts import Text, Texts
from distill.user_folders import write_private

OnProgress = Callable[[Progress], None]
OURS = ("label", "log_dir", "on_progress", "sources", "resume", "json")
"""Options of a run that an evaluation sets itself."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One of the times that a task is asked; ``resumes`` is the run that it goes on with."""

    task: Task
    number: int
    resumes: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Which attempt at which task."""
        return self.task.id, self.number


class Asker(Protocol):
    """Runs attempts; its names are for the results."""

    supervisor: str
    worker: str

    def check(self, task: Task) -> None:
        """Raise InputError for options that a task can't have."""

    async def ask(self, attempt: Attempt, on_progress: OnProgress) -> RunResult:
        """Run it to its end. Raises DistillError."""

    def lost(self) -> DistillError | None:
        """Why no further attempt can be run, if that is so."""

    def close(self) -> None:
        """Let go of what it holds."""


def check_options(options: Mapping[str, Any]) -> None:
    """Raise InputError for options, as JSON has them, that no run has."""
    ours = sorted(set(options) & set(OURS))
    if ours:
        raise InputError(f"the option {ours[0]!r} is set for all tasks together")
    known = {name: value for name, value in options.items() if name != "encoding"}
    try:
        checked = msgspec.convert(known, AskOptions)
    except msgspec.ValidationError as error:
        raise InputError(f"bad option: {error}") from None
    replaced(Limits(), checked.limits)


class Here:
    """The driver of this process, with models that its caller has made."""

    def __init__(
        self, supervisor: ModelHandler, worker: Any, log_dir: Path, options: Mapping[str, Any]
    ) -> None:
        for name in options:
            if name not in signature(answer_on_loop).parameters or name in OURS:
                raise TypeError(f"evaluate() got an unexpected keyword argument {name!r}")
        self.supervisor = model_name(supervisor)
        self.worker = model_name(worker) if isinstance(worker, ModelHandler) else worker.name
        self._models = (supervisor, worker)
        self._log_dir = log_dir
        self._options = dict(options)
        self._texts = Texts()

    def check(self, task: Task) -> None:
        """Options are ``distill.run``'s that JSON can hold."""
        check_options(task.options)
        if "adapter" in task.options:
            raise InputError("the option 'adapter' is for the workers of an engine")

    async def ask(self, attempt: Attempt, on_progress: OnProgress) -> RunResult:
        """A run of this process."""
        own = dict(attempt.task.options)
        budget = (self._options.get("budget") or Budget()).replaced(Budget.taken_from(own))
        options = {**self._options, **own, "budget": budget}
        if "limits" in own:
            options["limits"] = replaced(self._options.get("limits") or Limits(), own["limits"])
        if attempt.resumes is not None:
            again = {
                name: value
                for name, value in options.items()
                if name in signature(resume_on_loop).parameters
            }
            return await resume_on_loop(
                self._log_dir,
                *self._models,
                run_id=attempt.resumes,
                on_progress=on_progress,
                **again,
            )
        task, encoding = attempt.task, options.pop("encoding", "utf-8")
        text = Text(task.context, ())
        if task.paths:
            host = driver.shared()
            text = await driver.in_thread(host, self._texts.read, task.paths, encoding)
        return await answer_on_loop(
            task.query,
            text.context,
            *self._models,
            label=task.id,
            log_dir=self._log_dir,
            sources=text.sources,
            on_progress=on_progress,
            **options,
        )

    def lost(self) -> DistillError | None:
        """A driver that was lost is replaced for the next run."""
        return None

    def close(self) -> None:
        """The models are the caller's."""


Put = Callable[[str, list[str], dict[str, Any], OnProgress], Awaitable[tuple[RunResult, str]]]
"""Puts a question about files, with options, to an engine: the result and its summary."""


class Through:
    """An engine: one that is up, or this process's own. Texts that are inline travel as files."""

    def __init__(
        self,
        put: Put,
        lost: Callable[[], DistillError | None],
        names: tuple[str, str],
        log_dir: Path,
        options: Mapping[str, Any],
    ) -> None:
        check_options({name: value for name, value in options.items() if _is_a_runs(name)})
        self.supervisor, self.worker = names
        self.lost = lost
        self._put = put
        self._log_dir = log_dir
        self._options = dict(options)
        self._spool = tempfile.TemporaryDirectory(prefix="distill-", ignore_cleanup_errors=True)

    def check(self, task: Task) -> None:
        """Options are those of `distill run`, as JSON has them."""
        check_options(task.options)

    async def ask(self, attempt: Attempt, on_progress: OnProgress) -> RunResult:
        """A run of the engine."""
        task = attempt.task
        options = {**self._options, **task.options}
        if attempt.resumes is not None:
            kept = {
                name: options[name]
                for name in options
                if name.startswith(("max_", "otlp")) or not _is_a_runs(name)
            }
            kept["resume"] = f"{self._log_dir}#{attempt.resumes}"
            result, _ = await self._put("", [], kept, on_progress)
            return result
        options.update(label=task.id, log_dir=str(self._log_dir))
        options["limits"] = {**self._options.get("limits", {}), **task.options.get("limits", {})}
        paths = list(task.paths)
        if not paths:
            options.pop("encoding", None)
            options["json"] = True
            paths = [await asyncio.to_thread(self._spooled, task.context)]
        result, _ = await self._put(task.query, paths, options, on_progress)
        return result

    def _spooled(self, context: Any) -> str:
        """The file with an inline context: one for all tasks that have it. Raises InputError."""
        encode_context(context)  # refused here as it would be there
        data = json.dumps(context).encode()
        path = Path(self._spool.name, f"{hashlib.sha256(data).hexdigest()}.json")
        if not path.exists():
            draft = path.with_suffix(f".{threading.get_ident()}")
            write_private(draft, data)
            draft.rename(path)
        return str(path)

    def close(self) -> None:
        """Remove the files."""
        self._spool.cleanup()


def _is_a_runs(option: str) -> bool:
    """Whether an option is about a run, not about the supervisor's endpoint."""
    return option != "base_url" and not option.endswith("_per_minute")


async def through_engine(
    engine: Engine, supervisor: str | None, log_dir: Path, options: Mapping[str, Any]
) -> Through:
    """An engine that is up, which this process is a client of. Raises MachineError: it is not."""

    async def put(
        query: str, paths: list[str], options: dict[str, Any], on_progress: OnProgress
    ) -> tuple[RunResult, str]:
        return await engine.ask_on_loop(query, paths, supervisor, options, on_progress)

    def lost() -> DistillError | None:
        return MachineError("the engine has ended") if engine.has_ended else None

    names = (supervisor or DEFAULT_SUPERVISOR, (await engine.status_on_loop()).model)
    return Through(put, lost, names, log_dir, options)


def through_resident(
    resident: Resident, supervisor: ModelHandler | str, log_dir: Path, options: Mapping[str, Any]
) -> Through:
    """This process's own engine; ``supervisor`` is a name where the engine's own model it is."""
    handler = supervisor if isinstance(supervisor, ModelHandler) else None
    name = supervisor if isinstance(supervisor, str) else model_name(supervisor)

    async def put(
        query: str, paths: list[str], options: dict[str, Any], on_progress: OnProgress
    ) -> tuple[RunResult, str]:
        ask = Ask(OWN_ASK, query, tuple(paths), name, options)
        return await resident.answer_on_loop(ask, on_progress, handler)

    return Through(put, resident.lost, (name, resident.worker_name), log_dir, options)
