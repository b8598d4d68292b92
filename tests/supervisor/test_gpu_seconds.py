"""Seconds of worker servers' devices: shared by those in flight, limited by a run's budget."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill import Budget, RunResult, arun
from distill.supervisor import background, driver
from distill.supervisor.backends import FleetBackend
from distill.supervisor.device_clock import DeviceClock
from distill.supervisor.fleet import Fleet
from tests.distill.scripted import SMALL, Supervisor, cell
from tests.engine_stand_in.spec import calls_in, worker_spec

spans = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 30)), min_size=1, max_size=12)


@given(spans)
def test_the_shares_add_up_to_the_time_in_which_anything_was_in_flight(
    spans: list[tuple[int, int]],
) -> None:
    clock, marks, shares = DeviceClock(), {}, []
    moments = [(start, 1, n) for n, (start, _) in enumerate(spans)]
    moments += [(start + length, 0, n) for n, (start, length) in enumerate(spans)]
    for now_s, begins, n in sorted(moments):
        if begins:
            marks[n] = clock.enter(now_s)
        else:
            shares.append(clock.leave(marks[n], now_s))
    busy = {second for start, length in spans for second in range(start, start + length)}
    assert sum(shares) == pytest.approx(len(busy))
    assert all(share >= 0 for share in shares)


@pytest.fixture(scope="module")
def fleet() -> Iterator[FleetBackend]:
    """A worker server on the engine that does no work, and takes 0.2 s for each answer."""
    host = driver.shared()
    fleets: list[Fleet] = []

    async def start() -> FleetBackend:
        spec = worker_spec(host.endpoints["workers"], latency_s=0.2)
        fleets.append(Fleet(host, [spec]))
        return FleetBackend(fleets[0], await asyncio.wait_for(fleets[0].ready(), 60))

    try:
        yield background.wait(start())
    finally:
        background.wait(fleets[0].close())


def ask(backend: FleetBackend, folder: Path, *replies: str, budget: Budget) -> RunResult:
    """A run over the fleet, an hour of whose device costs $3,600."""
    prices = {"devices": [{"device": "cpu", "gpu_hour": 3600.0}]}
    options = {"log_dir": folder, "limits": SMALL, "prices": prices, "budget": budget}
    boss = Supervisor(*replies)
    boss.endpoint = ""
    return asyncio.run(arun("What?", "some text", boss, backend, **options))  # type: ignore[arg-type]


def test_gpu_seconds_are_counted_priced_and_end_a_run(fleet: FleetBackend, tmp_path: Path) -> None:
    loop = "for n in range(99):\n    print(worker(str(n)))"
    result = ask(fleet, tmp_path, cell(loop), "enough", budget=Budget(gpu_s=1.0, dollars=50.0))
    calls = calls_in(tmp_path)
    assert result.ended_by == "gpu_s"
    assert result.answer == "enough"
    assert 1 <= len(calls) <= 5  # each has the device to itself for 0.2 s at least
    # Each line is rounded to a microsecond.
    assert result.gpu_s == pytest.approx(sum(call.gpu_s for call in calls), abs=1e-6 * len(calls))
    assert all(call.gpu_s >= 0.2 for call in calls)
    assert result.dollars == pytest.approx(result.gpu_s)


def test_calls_at_once_share_the_device(fleet: FleetBackend, tmp_path: Path) -> None:
    code = "FINAL(len(worker_batch([str(n) for n in range(50)])))"
    result = ask(fleet, tmp_path, cell(code), budget=Budget(dollars=50.0))
    assert result.answer == 50
    calls = calls_in(tmp_path)
    assert all(call.total_s >= 0.2 for call in calls)
    assert result.gpu_s < sum(call.total_s for call in calls) / 2
