"""The fleet with worker servers that die, lie, freeze and repeat themselves, on the real wire."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.errors import ModelError
from distill.local_supervisor import LocalSupervisor
from distill.protocol import PROTOCOL_VERSION
from distill.protocol import worker_link as W
from distill.protocol.codec import WORKER_TO_DRIVER
from distill.protocol.sockets import Inbound
from distill.supervisor import background, driver, workers
from distill.supervisor.fleet import Fleet
from distill.supervisor.requests import Outcome, Submission
from distill.supervisor.workers import Worker, WorkerSpec
from tests.supervisor.processes import left

ROOT = Path(__file__).resolve().parents[2]


def specs(host: driver.Driver, folder: Path, *acts: Sequence[str]) -> list[WorkerSpec]:
    """One worker for each list of acts, an act for each of its lives."""
    made = []
    for number, lives in enumerate(acts):
        script = json.dumps({"folder": str(folder), "acts": lives})
        argv = (
            *(sys.executable, "-m", "tests.supervisor.scripted_worker"),
            *("--connect", host.endpoints["workers"], "--worker", f"w{number}"),
            *("--script", script),
        )
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        made.append(WorkerSpec(f"w{number}", argv, {**os.environ, "PYTHONPATH": path}))
    return made


def requests(count: int) -> list[W.Request]:
    return [W.Request(f"r{n}", 1, W.Sampling(), prompt=f"p{n}") for n in range(count)]


async def ask(fleet: Fleet, wanted: Sequence[W.Request], timeout_s: float = 30) -> list[Outcome]:
    """Submit and wait for one outcome each; more would be a broken promise."""
    outcomes: list[Outcome] = []
    fleet.submit(Submission(wanted, outcomes.extend, model="scripted"))
    for _ in range(int(timeout_s / 0.02)):
        if len(outcomes) >= len(wanted):
            break
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    assert sorted(o.request.id for o in outcomes) == sorted(r.id for r in wanted)
    return outcomes


def texts(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {o.request.id: o.result.text for o in outcomes if isinstance(o.result, W.Result)}


Body = Callable[[Fleet], Any]


@pytest.fixture
def with_fleet(tmp_path: Path) -> Callable[..., Any]:
    """Run a coroutine function with a fleet of scripted workers; afterwards none is left."""

    def run(body: Body, *acts: Sequence[str]) -> None:
        async def work() -> None:
            host = driver.shared()
            fleet = Fleet(host, specs(host, tmp_path, *acts))
            pids: set[int] = set()
            try:
                await body(fleet)
                pids = {worker.producer.pid for worker in fleet.workers()}
            finally:
                await fleet.close()
            await asyncio.sleep(0.1)
            assert left(pids - {0}) == []

        driver.shared()
        background.wait(asyncio.wait_for(work(), 60))

    return run


def test_answers_come_once_each(with_fleet: Callable[..., Any]) -> None:
    async def body(fleet: Fleet) -> None:
        assert (await fleet.ready()).model == "scripted"
        outcomes = await ask(fleet, requests(500))
        assert texts(outcomes) == {f"r{n}": f"p{n}:1" for n in range(500)}
        assert all(o.card is not None and o.producer is not None for o in outcomes)
        assert fleet.dropped_results == 0

    with_fleet(body, ["answer"], ["answer"])


def test_repeated_and_strange_results_are_dropped(with_fleet: Callable[..., Any]) -> None:
    async def body(fleet: Fleet) -> None:
        await fleet.ready()
        outcomes = await ask(fleet, requests(8))
        assert texts(outcomes) == {f"r{n}": f"p{n}:1" for n in range(8)}
        assert fleet.dropped_results == 17

    with_fleet(body, ["twice"])


@pytest.mark.parametrize("act", ["die", "die half way", "noise", "freeze", "engine dies"])
def test_a_worker_that_dies_once_loses_nothing(
    with_fleet: Callable[..., Any], act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # test_joining.py waits for the real one.
    monkeypatch.setattr(workers, "SILENCE_LIMIT_S", 3.0)

    async def body(fleet: Fleet) -> None:
        await fleet.ready()
        outcomes = await ask(fleet, requests(20))
        assert set(texts(outcomes)) == {f"r{n}" for n in range(20)}

    with_fleet(body, [act, "answer"])


def test_poison_is_an_error_and_the_rest_is_answered(with_fleet: Callable[..., Any]) -> None:
    async def body(fleet: Fleet) -> None:
        await fleet.ready()
        outcomes = await ask(fleet, requests(40))
        (poison,) = [o for o in outcomes if o.lost is not None]
        assert (poison.request.id, poison.lost, poison.request.attempt) == ("r5", "poison", 5)
        assert set(texts(outcomes)) == {f"r{n}" for n in range(40)} - {"r5"}
        (worker,) = fleet.workers()
        assert worker.failure is None, "it is started again"

    with_fleet(body, ["die of p5"])


def test_another_worker_takes_over(with_fleet: Callable[..., Any]) -> None:
    async def body(fleet: Fleet) -> None:
        await fleet.ready()
        while not all(worker.is_ready for worker in fleet.workers()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        outcomes = await ask(fleet, requests(100))
        assert len(texts(outcomes)) == 100

    with_fleet(body, ["die", "answer"], ["answer"])


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("no model", "no such model"),
        ("crash at load", "Segmentation fault, more or less"),
        ("version", f"it speaks protocol 99, this engine {PROTOCOL_VERSION}"),
        ("result before ready", "Results received in state .loading."),
    ],
)
def test_a_worker_that_never_comes_is_an_error(
    with_fleet: Callable[..., Any], act: str, said: str
) -> None:
    async def body(fleet: Fleet) -> None:
        with pytest.raises(ModelError, match=said):
            await fleet.ready()
        outcomes = await ask(fleet, requests(3))
        assert {o.lost for o in outcomes} == {"lost"}

    with_fleet(body, [act])


@pytest.mark.slow
def test_a_worker_that_always_dies_is_given_up(with_fleet: Callable[..., Any]) -> None:
    async def body(fleet: Fleet) -> None:
        await fleet.ready()
        outcomes = await ask(fleet, requests(40), 40)
        assert texts(outcomes) == {}
        assert {o.lost for o in outcomes} <= {"poison", "lost"}

    with_fleet(body, ["die"])


def test_a_typed_refusal_reaches_the_caller(with_fleet: Callable[..., Any]) -> None:
    async def body(fleet: Fleet) -> None:
        await fleet.ready()
        (outcome,) = await ask(fleet, requests(1))
        assert isinstance(outcome.result, W.Failure)
        assert (outcome.result.kind, outcome.result.window_tokens) == ("too_long", 4096)

    with_fleet(body, ["refuse"])


def test_cancelled_requests_are_forgotten(with_fleet: Callable[..., Any]) -> None:
    async def body(fleet: Fleet) -> None:
        await fleet.ready()
        got: list[Outcome] = []
        fleet.submit(Submission(requests(200), got.extend, model="scripted"))
        fleet.cancel("")
        await asyncio.sleep(0.5)
        assert got == []
        assert fleet.waiting == 0
        assert len(texts(await ask(fleet, requests(5)))) == 5

    with_fleet(body, ["answer"])


def test_an_answer_by_what_was_not_asked_is_no_answer(with_fleet: Callable[..., Any]) -> None:
    async def body(fleet: Fleet) -> None:
        await fleet.ready()
        outcomes = await ask(fleet, requests(4))
        assert texts(outcomes) == {"r0": "p0:1", "r1": "p1:2", "r2": "p2:2", "r3": "p3:2"}
        assert {o.card.adapter for o in outcomes if o.card is not None} == {None}
        (worker,) = fleet.workers()
        why = "asked of the model itself, and the answer is of version 2 of the adapter 't'"
        assert why in worker.meter.last_fault

    with_fleet(body, ["another adapter", "answer"])


def stumble(*_: object) -> None:
    raise KeyError("a bug")


def test_a_bug_in_what_one_worker_says_costs_no_answer_that_was_read(
    with_fleet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it came at once: results of two workers, and between them what we stumble over."""

    async def body(fleet: Fleet) -> None:
        await fleet.ready()
        for _ in range(500):
            if all(worker.is_ready for worker in fleet.workers()):
                break
            await asyncio.sleep(0.02)
        outcomes: list[Outcome] = []
        fleet.submit(Submission(requests(4), outcomes.extend, model="scripted"))
        one, two = fleet.workers()

        def inbound(worker: Worker, message: W.FromWorker) -> Inbound:
            return Inbound("workers", worker.epoch.encode(), WORKER_TO_DRIVER.encode(message))

        def results(worker: Worker) -> Inbound:
            done = [W.Result(key, 1, "x", "stop", 1, 1, prompt="p") for key in worker.in_flight]
            return inbound(worker, W.Results(tuple(done)))

        monkeypatch.setattr(fleet.adapters, "on_loaded", stumble)
        fleet._on_batch([results(two), inbound(two, W.AdapterLoaded("t", 1, "h")), results(one)])
        assert sorted(texts(outcomes)) == ["r0", "r1", "r2", "r3"]
        assert (one.is_ready, two.is_ready) == (True, False)
        assert two.failure is not None
        assert "KeyError: 'a bug'" in two.failure.detail

    with_fleet(body, ["silent"], ["silent"])


def test_a_bug_in_one_zone_leaves_the_others_their_messages() -> None:
    heard: list[Inbound] = []

    async def work() -> None:
        host = driver.shared()
        host.on_zone("broken", stumble)
        host.on_zone("sound", heard.extend)
        host._on_batch([Inbound("broken", b"a", b""), Inbound("sound", b"b", b"")])

    driver.shared()
    background.wait(work())
    assert [inbound.zone for inbound in heard] == ["sound"]


def test_one_of_two_runs_of_a_local_supervisor_may_end(with_fleet: Callable[..., Any]) -> None:
    async def body(fleet: Fleet) -> None:
        await fleet.ready()
        host = driver.shared()
        boss = LocalSupervisor(fleet, host.loop, "scripted")

        def chat(text: str) -> str:
            return boss.chat([{"role": "user", "content": text}]).text

        gone, stays = (
            host.loop.create_task(driver.in_thread(host, chat, text)) for text in ("gone", "stays")
        )
        await asyncio.sleep(0.3)
        gone.cancel()
        assert await asyncio.wait_for(stays, 60) == "stays:1"

    with_fleet(body, ["late"])
