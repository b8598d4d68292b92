"""Supervisors by name: a recipe, a recorded run, or a model of an OpenAI-compatible API."""

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.endpoint import address_of
from distill.errors import InputError, ModelError
from distill.models import LMResponse, Messages, ModelHandler, OpenAIHandler, Usage
from distill.models.openai_handler import NO_KEY
from distill.rates import UNLIMITED, Rates
from distill.supervisor.recipe import RecipeHandler, recipe_names
from distill.supervisor.workers import SUPERVISOR_PREFIX
from distill.traces import Run, read, records
from distill.traces.naming import check_runs, folder_and_run

DEFAULT_SUPERVISOR = "recipe:find"
REPLAY = "replay:"


class RepliesEndError(ModelError):
    """A recorded supervisor has said all that it had said."""


class RecordedSupervisor(ModelHandler):
    """Replies what the supervisor of a recorded run replied, turn by turn.

    ``opening`` are the messages before its first reply. Raises InputError: the run was redacted.
    """

    endpoint = ""

    def __init__(self, run: Run) -> None:
        check_whole(run)
        self.run = run
        self.model = f"{REPLAY}{run.id}"
        content = {message.index: message.content for message in run.messages}
        self._replies = [(turn, content[turn.reply_index]) for turn in run.turns]
        first = min((turn.reply_index for turn in run.turns), default=len(run.messages))
        self.opening = run.conversation()[:first]
        self._examples = sum(message["role"] == "assistant" for message in self.opening)

    def chat(self, messages: Messages, **_kw: Any) -> LMResponse:
        """The next reply. Raises RepliesEndError where the recorded run has none."""
        said = sum(message["role"] == "assistant" for message in messages) - self._examples
        if said >= len(self._replies):
            raise RepliesEndError(f"run {self.run.id} ends after {said} replies")
        turn, text = self._replies[said]
        reply = LMResponse(text, Usage(), self.model, 0.0, turn.finish_reason or "stop")
        # What was cut off, or a refusal, must be read as it was then.
        return replace(reply, text="", refusal=text) if turn.refused else reply

    def chat_batch(self, message_batches: Any, **kw: Any) -> list[LMResponse]:
        """Reply to several runs."""
        return [self.chat(messages, **kw) for messages in message_batches]


def check_whole(run: Run) -> None:
    """Raise InputError for a run whose log is redacted: what is blotted out can't be done again."""
    if run.start is not None and run.start.redacted:
        raise InputError(
            f"run {run.id} was redacted ({', '.join(run.start.redacted)}): its log lacks what was "
            "blotted out, so it can't be gone on with or done again; ask the question anew"
        )


def is_replay(supervisor: Any) -> bool:
    """Whether this, a handler or a name, is a recorded run's, which has its own question."""
    if isinstance(supervisor, str):
        return supervisor.startswith(REPLAY)
    return isinstance(supervisor, RecordedSupervisor)


_reading = threading.Lock()
"""A log may be of many runs, and many of them be gone on with at once: it is in memory once."""


def recorded_run(named: str | Path, run_id: str | None = None) -> Run:
    """The run that ``FOLDER#RUN`` names, or the newest of a log folder that is no sub-run.

    ``run_id`` is for who has the two apart. Raises InputError: there is none.
    """
    folder = Path(named)
    if run_id is None:
        folder, run_id = folder_and_run(named)
    with _reading:
        begun = {run.id: run for run in read(folder).runs.values() if run.start is not None}
    own = [run.id for run in begun.values() if run.start is not None and run.start.parent is None]
    if run_id is not None and run_id not in begun:
        check_runs(folder, (run_id,), own)
    if not own:
        raise InputError(f"{folder} has no run")
    return begun[run_id or own[-1]]


def supervisor_again(start: records.RunStart) -> ModelHandler:
    """The supervisor that a run had. Raises what ``supervisor_from`` raises.

    A log may name any address: it gets no key, unless it is where this environment asks anyway.
    """
    url = start.options.get("supervisor_url")
    usual = os.environ.get("OPENAI_BASE_URL") or None
    if url is None or url == address_of(usual, "OPENAI_BASE_URL").where:
        return supervisor_from(start.supervisor)
    return supervisor_from(start.supervisor, url, key=NO_KEY)


def supervisor_beside(other: ModelHandler, spec: str) -> ModelHandler:
    """The supervisor of a name; a model's is asked where ``other`` is, if that is an API's.

    Raises what ``supervisor_from`` does.
    """
    if not (asks_endpoint(spec) and isinstance(other, OpenAIHandler)):
        return supervisor_from(spec)
    handler = other.beside(spec)
    handler.check()
    return handler


def asks_endpoint(spec: str | None) -> bool:
    """Whether the supervisor of this name is a model of an API."""
    kind, colon, _ = (spec or DEFAULT_SUPERVISOR).partition(":")
    return not (colon and f"{kind}:" in ("recipe:", REPLAY, SUPERVISOR_PREFIX))


def _of_no_endpoint(what: str, spec: str) -> str:
    return (
        f"{what} the endpoint of a supervisor model, and {spec} uses none: name one with "
        "--supervisor MODEL"
    )


def supervisor_from(
    spec: str | None,
    base_url: str | None = None,
    *,
    key: str | None = None,
    rates: Rates = UNLIMITED,
    check: bool = True,
) -> ModelHandler:
    """The supervisor of a name: ``recipe:NAME``, ``replay:RUN``, or a model of an API.

    ``rates`` are the limits of that model's endpoint. Without ``check`` it is not asked whether it
    is there, and needs no key: nothing will be sent to it.

    Raises InputError for an unknown recipe, a folder without a run or a missing key, ModelError
    for an endpoint that can't be reached or does not serve the model.
    """
    spec = spec or DEFAULT_SUPERVISOR
    kind, _, name = spec.partition(":")
    if kind in ("recipe", "replay"):
        if base_url is not None:
            raise InputError(_of_no_endpoint("--base-url is", spec))
        if rates.are_given:
            raise InputError(_of_no_endpoint("--supervisor-…-per-minute is of", spec))
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
