"""The models of a run, made ready; what it asks of them is the same however it begins."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from distill.errors import InputError
from distill.models import ModelHandler, model_name
from distill.question import Question
from distill.rollout import Rollout
from distill.run_options import Options
from distill.spending import settled
from distill.subruns import Family
from distill.supervisor import driver
from distill.supervisor.backends import Backend, HandlerBackend
from distill.supervisor.run_log import RunLog
from distill.supervisors import RecordedSupervisor, supervisor_beside, supervisor_from
from distill.traces import Run


@dataclass(frozen=True, slots=True)
class RunModels:
    """Who a run asks, all made ready (``ModelHandler.prepare``).

    ``below`` writes the code of its sub-runs; None: ``supervisor`` does.
    """

    supervisor: ModelHandler
    below: ModelHandler | None
    backend: Backend

    def settled(self, options: Options) -> Options:
        """The options of a run that asks them: with their prices, and the default cap of dollars.

        Raises InputError where dollars are limited and a price is not known.
        """
        asked = (self.supervisor, self.below)
        budget, prices = settled(options.budget, options.prices, self.backend, *asked)
        options = dataclasses.replace(options, budget=budget, prices=prices)
        if self.below is None:
            return options
        return dataclasses.replace(options, sub_supervisor=model_name(self.below))

    async def rollout(
        self,
        host: driver.Driver,
        log: RunLog,
        question: Question,
        options: Options,
        messages: Any = None,
        recorded: Run | None = None,
    ) -> Rollout:
        """A run that can begin, or go on from where it was ``recorded``; ``options`` are settled.

        A replay has nobody to ask for sub-runs. ``messages`` are for these as well where they are
        a function; a list of them is for one question alone.
        """
        is_replay = isinstance(self.supervisor, RecordedSupervisor)
        family = Family.of_depth(
            options.max_depth,
            host=host,
            supervisor=None if is_replay else self.below or self.supervisor,
            backend=self.backend,
            messages=messages if callable(messages) else None,
        )
        rollout = Rollout(host, log, question, options, family.sub_runs())
        await rollout.prepare(self.supervisor, self.backend, recorded)
        return rollout


async def ready_supervisors(
    host: driver.Driver, supervisor: Any, below: Any
) -> tuple[ModelHandler, ModelHandler | None]:
    """The supervisor, and that of sub-runs if it is another, made ready.

    Either may be a name, whose endpoint may be asked. Raises InputError, ModelError.
    """
    handler = await _ready_supervisor(host, supervisor)
    if isinstance(below, str):
        below = await driver.in_thread(host, supervisor_beside, handler, below)
    return handler, None if below is None else await _ready_supervisor(host, below)


async def _ready_supervisor(host: driver.Driver, given: Any) -> ModelHandler:
    if isinstance(given, str):
        given = await driver.in_thread(host, supervisor_from, given)
    if not isinstance(given, ModelHandler):
        raise InputError(
            "the supervisor must be a ModelHandler, for example OpenAIHandler(…), or a name such "
            f"as 'recipe:find', not {type(given).__name__}"
        )
    await driver.in_thread(host, given.prepare)
    return given


async def ready_backend(host: driver.Driver, worker: Any) -> Backend:
    """What answers worker calls: a handler, made ready, or a fleet. Raises what that does."""
    check_worker(worker)
    if isinstance(worker, ModelHandler):
        await driver.in_thread(host, worker.prepare)
        return HandlerBackend(host, worker)
    backend: Backend = worker
    return backend


def check_worker(worker: Any) -> None:
    """Raise InputError for what can answer no calls."""
    if not isinstance(worker, ModelHandler | Backend):
        raise InputError(
            "the worker must be a ModelHandler, for example VLLMHandler('default'), "
            f"not {type(worker).__name__}"
        )
