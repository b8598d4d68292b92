"""Supervisors by name: a recipe, a recorded run, or a model of an OpenAI-compatible API."""

import os
from pathlib import Path
from typing import Any

from distill.errors import InputError, ModelError
from distill.models import NO_KEY, LMResponse, Messages, ModelHandler, OpenAIHandler, Usage
from distill.rates import UNLIMITED, Rates
from distill.supervisor.recipe import RecipeHandler, recipe_names
from distill.supervisor.workers import SUPERVISOR_PREFIX
from distill.traces import Run, read

DEFAULT_SUPERVISOR = "recipe:find"
REPLAY = "replay:"


class RecordedSupervisor(ModelHandler):
    """Replies what the supervisor of a recorded run replied, turn by turn.

    A run with it does the recorded one again: its host calls get the answers they got, and no
    worker is asked.
    """

    endpoint = ""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.model = f"{REPLAY}{run.id}"
        self._replies = [each.content for each in run.messages if each.role == "assistant"]

    def chat(self, messages: Messages, **_kw: Any) -> LMResponse:
        """The next reply. Raises ModelError where the recorded run had ended."""
        place = sum(message["role"] == "assistant" for message in messages)
        if place >= len(self._replies):
            raise ModelError(f"run {self.run.id} ends after {place} replies")
        return LMResponse(self._replies[place], Usage(), self.model, 0.0)

    def chat_batch(self, message_batches: Any, **kw: Any) -> list[LMResponse]:
        """Reply to several runs."""
        return [self.chat(messages, **kw) for messages in message_batches]


def recorded_run(folder: str | Path, run_id: str | None = None) -> Run:
    """The run of this id in a log folder, or its newest that is no sub-run of another.

    Raises InputError: there is none.
    """
    runs = read(folder).runs
    begun = [run for run in runs.values() if run.start is not None]
    if run_id is None:
        begun = [run for run in begun if run.start is not None and run.start.parent is None]
    if run_id is not None:
        begun = [run for run in begun if run.id == run_id]
    if not begun:
        which = f"run {run_id}" if run_id is not None else "run"
        raise InputError(f"{folder} has no {which}; there are {', '.join(runs) or 'none'}")
    return begun[-1]


def supervisor_beside(other: ModelHandler, spec: str) -> ModelHandler:
    """The supervisor of a name; a model's is asked where ``other`` is, if that is an API's.

    Raises what ``supervisor_from`` does.
    """
    is_model = ":" not in spec or spec.partition(":")[0] not in ("recipe", "replay", "local")
    if not (is_model and isinstance(other, OpenAIHandler)):
        return supervisor_from(spec)
    handler = other.beside(spec)
    handler.check()
    return handler


def supervisor_from(
    spec: str | None,
    base_url: str | None = None,
    *,
    key: str | None = None,
    rates: Rates = UNLIMITED,
    check: bool = True,
) -> ModelHandler:
    """The supervisor of a name: ``recipe:NAME``, ``replay:FOLDER``, or a model of an API.

    ``rates`` are the limits of that model's endpoint. Without ``check`` it is not asked whether it
    is there, and needs no key: nothing will be sent to it.

    Raises InputError for an unknown recipe, a folder without a run or a missing key, ModelError
    for an endpoint that can't be reached or does not serve the model.
    """
    spec = spec or DEFAULT_SUPERVISOR
    kind, _, name = spec.partition(":")
    if kind in ("recipe", "replay"):
        if base_url is not None:
            raise InputError(f"--base-url is for a model; {spec} calls none")
        if rates.are_given:
            raise InputError(f"--supervisor-…-per-minute is for a model; {spec} calls none")
        return RecipeHandler(name) if kind == "recipe" else RecordedSupervisor(recorded_run(name))
    if spec.startswith(SUPERVISOR_PREFIX):
        raise InputError(
            f"{spec} is a model of an engine's own workers: give it to bin/distill-up or `distill "
            "run`. In Python, supervisor=VLLMHandler(…) loads a model of its own"
        )
    if spec in recipe_names():
        raise InputError(f"{spec!r} is a recipe: write --supervisor recipe:{spec}")
    if not check:
        key = key or os.environ.get("OPENAI_API_KEY") or NO_KEY
    handler = OpenAIHandler(
        spec,
        base_url,
        key,
        requests_per_minute=rates.requests_per_minute,
        tokens_per_minute=rates.tokens_per_minute,
    )
    if check:
        handler.check()
    return handler
