"""The real worker server on the engine that does no work, asked through the real driver."""

import asyncio
import hashlib
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from distill.errors import ModelError, WorkerBatchError
from distill.supervisor import background, driver
from distill.supervisor.backends import FleetBackend
from distill.supervisor.calls import WorkerCalls
from distill.supervisor.fleet import Fleet
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.run_log import RunLog
from distill.traces import records
from tests.engine_stand_in.spec import calls_in, events_in, worker_spec
from tests.engine_stand_in.vllm.tokens import answer_to, encode, render
from tests.supervisor.processes import left

CONTEXT = "It was the best of times, it was the worst of times, it was the age of wisdom."
Ask = Callable[..., Awaitable[list[Any]]]
Body = Callable[[Ask, Fleet], Awaitable[None]]


def with_stand_in(folder: Path, body: Body, **settings: Any) -> list[records.Call]:
    """Run ``body`` with a ready fleet and a run's worker_batch; the calls that were logged."""

    async def work() -> None:
        host = driver.shared()
        journal = host.open_journal(folder)
        fleet = Fleet(host, [worker_spec(host.endpoints["workers"], **settings)])
        pids: set[int] = set()
        try:
            backend = FleetBackend(fleet, await asyncio.wait_for(fleet.ready(), 30))
            log, index = RunLog(journal, "run"), SpanIndex(CONTEXT)
            calls = WorkerCalls(host, backend, log, index, record="ids+logprobs")

            async def ask(prompts: list[str], **options: Any) -> list[Any]:
                return await asyncio.to_thread(calls.worker_batch, prompts, **options)

            await body(ask, fleet)
            pids = {process.pid for process in _processes(fleet)}
        finally:
            await fleet.close()
            host.release_journal(journal)
        assert left(pids) == []

    driver.shared()
    background.wait(asyncio.wait_for(work(), 120))
    return calls_in(folder)


def _processes(fleet: Fleet) -> list[psutil.Process]:
    """The worker server and its engine's process."""
    (worker,) = fleet.workers()
    server = psutil.Process(worker.producer.pid)
    return [server, *server.children(recursive=True)]


def test_two_thousand_answers_in_their_order_and_logged(tmp_path: Path) -> None:
    prompts = [f"{number}: {CONTEXT if number % 2 else 'nothing of it'}" for number in range(2000)]
    seen = [render([{"role": "user", "content": prompt}]) for prompt in prompts]

    async def body(ask: Ask, _: Fleet) -> None:
        assert await ask(prompts) == [answer_to(prompt) for prompt in seen]

    calls = sorted(with_stand_in(tmp_path, body), key=lambda call: call.item)
    assert [call.item for call in calls] == list(range(2000))
    assert [call.prompt for call in calls] == seen
    assert [call.response for call in calls] == [answer_to(prompt) for prompt in seen]
    assert [list(call.prompt_token_ids or ()) for call in calls] == [encode(one) for one in seen]
    assert {(len(call.token_ids or ()), len(call.logprobs or ())) for call in calls} == {(8, 8)}
    assert [len(call.spans) for call in calls] == [0, 1] * 1000
    assert {call.model.engine_version for call in calls} == {"0+stand-in"}


def test_options_reach_the_engine(tmp_path: Path) -> None:
    async def body(ask: Ask, _: Fleet) -> None:
        assert await ask(["p"], chat=False) == [answer_to("p", 5)]
        assert await ask(["p"], chat=False, max_tokens=2) == [answer_to("p", 2)]
        assert await ask(["p"], choices=["only"]) == ["only"]
        for kind, refused in (
            ("bad_request", {"regex": "a+"}),
            ("too_long", {"max_tokens": 10**6}),
        ):
            with pytest.raises(WorkerBatchError) as raised:
                await ask(["p"], **refused)
            assert raised.value.errors[0].kind == kind

    calls = with_stand_in(tmp_path, body, words=5)
    reasons = ["stop", "length", "stop", None, None]
    assert [call.finish_reason for call in calls] == reasons


def test_a_killed_engine_loses_no_answer(tmp_path: Path) -> None:
    prompts = [str(number) for number in range(300)]

    async def body(ask: Ask, fleet: Fleet) -> None:
        answers = asyncio.ensure_future(ask(prompts, chat=False))
        await asyncio.sleep(0.3)
        _, engine_core = _processes(fleet)
        os.kill(engine_core.pid, signal.SIGKILL)
        assert await answers == [answer_to(prompt) for prompt in prompts]

    calls = with_stand_in(tmp_path, body, latency_s=0.1, at_once=20)
    assert sorted(call.item for call in calls) == list(range(300))
    assert {call.attempt for call in calls} == {1, 2}


def test_a_base_model_says_how_it_can_be_asked(tmp_path: Path) -> None:
    async def body(ask: Ask, _: Fleet) -> None:
        with pytest.raises(WorkerBatchError, match=r"chat=False.*--chat-template"):
            await ask(["p"])
        assert await ask(["p"], chat=False) == [answer_to("p")]

    with_stand_in(tmp_path, body, is_base=True)


def test_a_chat_template_of_ones_own(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("Question: {}\nAnswer:")

    async def body(ask: Ask, _: Fleet) -> None:
        assert await ask(["p"]) == [answer_to("Question: p\nAnswer:")]

    (call,) = with_stand_in(tmp_path / "log", body, is_base=True, chat_template=template)
    assert call.model.template_hash == hashlib.sha256(template.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("text", "why"),
    [("{ is not closed", "does not work"), ("it has no {{}}", "leaves out"), ("", "is empty")],
)
def test_a_chat_template_that_does_not_work_is_refused(tmp_path: Path, text: str, why: str) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text(text)

    async def body(ask: Ask, _: Fleet) -> None:
        """It never comes to this."""

    with pytest.raises(ModelError, match=why):
        with_stand_in(tmp_path / "log", body, chat_template=template)


@pytest.mark.slow  # the trials stop engines, too
def test_a_stopped_engine_is_given_up_and_loses_no_answer(tmp_path: Path) -> None:
    prompts = [str(number) for number in range(300)]

    async def body(ask: Ask, fleet: Fleet) -> None:
        answers = asyncio.ensure_future(ask(prompts, chat=False))
        await asyncio.sleep(0.3)
        _, engine_core = _processes(fleet)
        os.kill(engine_core.pid, signal.SIGSTOP)
        assert await answers == [answer_to(prompt) for prompt in prompts]

    calls = with_stand_in(tmp_path, body, latency_s=0.1, at_once=20, through_core=True)
    assert sorted(call.item for call in calls) == list(range(300))
    failed = events_in(tmp_path, "worker_failed")[-1]
    assert "the engine's process was stopped (SIGSTOP) for 4 s" in failed.detail["why"]


def test_a_prompt_that_ends_the_engine_is_an_error_and_all_others_are_answered(
    tmp_path: Path,
) -> None:
    prompts = [str(number) for number in range(300)]

    async def body(ask: Ask, fleet: Fleet) -> None:
        with pytest.raises(WorkerBatchError) as raised:
            await ask(prompts, chat=False)
        (number,) = raised.value.errors
        assert (number, raised.value.errors[number].kind) == (77, "poison")
        right = [answer_to(prompt) for prompt in prompts]
        assert raised.value.answers == [*right[:77], None, *right[78:]]

    calls = with_stand_in(
        tmp_path, body, latency_s=0.01, at_once=20, through_core=True, poison="77"
    )
    assert sorted(call.item for call in calls) == list(range(300))
    (poison,) = [call for call in calls if call.error is not None]
    assert (poison.attempt, poison.error and poison.error.kind) == (5, "poison")
