"""A run that goes on in the process, or the engine, that it was cut off in."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distill import ModelHandler, arun, resume, run
from distill.errors import InputError, ModelError
from distill.protocol import worker_link as wire
from distill.supervisor.requests import Outcome, Submission
from distill.traces import read, records, validate
from tests.distill.scripted import Supervisor, Worker, cell

TEXT = "some text"


class Held:
    """A backend that holds what it is asked until it is told to answer."""

    name = "held"
    window_tokens: int | None = 100
    endpoint: str | None = ""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.asked = threading.Event()
        self.answers = False

    def models(self) -> Sequence[str]:
        return (self.name,)

    def card(self, model: str | None) -> None:
        return None

    def submit(self, submission: Submission) -> None:
        self.ids += [request.id for request in submission.requests]
        self.asked.set()
        if self.answers:
            submission.deliver([_answered(request) for request in submission.requests])

    def cancel(self, run: str) -> None:
        pass

    def producers(self) -> Sequence[records.Producer]:
        return ()


def _answered(request: wire.Request) -> Outcome:
    result = wire.Result(request.id, request.attempt, "yes", "stop", 1, 1, "")
    return Outcome(request, result, None, None, None, 0.0)


def test_no_id_of_a_call_in_flight_at_the_cut_is_used_again(tmp_path: Path) -> None:
    backend = Held()
    code = cell("FINAL(worker_batch(['a', 'b']))")

    async def cut_off(begun: Any) -> None:
        backend.asked.clear()
        going = asyncio.ensure_future(begun)
        await asyncio.to_thread(backend.asked.wait, 10)
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)

    asyncio.run(cut_off(arun("What?", TEXT, Supervisor(code), backend, log_dir=tmp_path)))
    backend.answers = True
    assert resume(tmp_path, Supervisor(code), backend).answer == ["yes", "yes"]
    assert len(backend.ids) == 4
    assert len(set(backend.ids)) == 4
    _, problems = validate(tmp_path)
    assert problems == []


def test_a_run_goes_on_once_at_a_time(tmp_path: Path) -> None:
    broken = Supervisor(cell("a = worker('one')"), ModelError("the endpoint is down"))
    with pytest.raises(ModelError):
        run("What?", TEXT, broken, Worker(), log_dir=tmp_path)
    begun, let_go = threading.Event(), threading.Event()

    def hold(prompt: str) -> str:
        begun.set()
        let_go.wait(10)
        return f"<{prompt}>"

    answers: list[Any] = []
    ends: ModelHandler = Supervisor(cell("FINAL([a, worker('two')])"))
    first = threading.Thread(
        target=lambda: answers.append(resume(tmp_path, ends, Worker(hold)).answer)
    )
    first.start()
    assert begun.wait(10)
    try:
        with pytest.raises(InputError, match="is under way"):
            resume(tmp_path, Supervisor(), Worker())
    finally:
        let_go.set()
        first.join()
    assert answers == [["<one>", "<two>"]]
    _, problems = validate(tmp_path)
    assert problems == []


def test_a_run_that_has_not_ended_is_not_resumed_beside_itself(tmp_path: Path) -> None:
    refused: list[str] = []

    def meddle(prompt: str) -> str:
        with pytest.raises(InputError) as raised:
            resume(tmp_path, Supervisor(), Worker())
        refused.append(str(raised.value))
        return prompt

    result = run(
        "What?", TEXT, Supervisor(cell("FINAL(worker('x'))")), Worker(meddle), log_dir=tmp_path
    )
    assert result.answer == "x"
    (told,) = read(tmp_path).runs.values()
    assert refused == [f"run {told.id} is under way in this engine: wait for its end, or stop it"]
