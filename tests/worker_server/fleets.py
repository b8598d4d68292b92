"""A fleet of real worker servers for the time of a test, asked through the driver, and logged."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from distill.protocol.message import Record
from distill.supervisor import background, driver
from distill.supervisor.backends import FleetBackend
from distill.supervisor.calls import WorkerCalls
from distill.supervisor.fleet import Fleet
from distill.supervisor.provenance import SpanIndex
from distill.supervisor.run_log import RunLog
from distill.supervisor.workers import WorkerSpec
from distill.traces import records
from tests.engine_stand_in.spec import calls_in

Ask = Callable[..., Awaitable[list[Any]]]
Body = Callable[[Ask, Fleet], Awaitable[None]]
PROMPTS = ["one", "two", "three"]


def with_workers(
    folder: Path,
    body: Body,
    specs_at: Callable[[str], list[WorkerSpec]],
    *,
    record: Record = "ids",
    start_s: float = 30.0,
    limit_s: float = 60.0,
) -> list[records.Call]:
    """Run ``body`` with a fleet of these worker servers, all ready; the calls that were logged."""

    async def work() -> None:
        host = driver.shared()
        journal = host.open_journal(folder / "log")
        fleet = Fleet(host, specs_at(host.endpoints["workers"]))
        try:
            card = await asyncio.wait_for(fleet.ready(), start_s)
            await until(lambda: all(worker.is_ready for worker in fleet.workers()), start_s)
            log = RunLog(journal, "run")
            calls = WorkerCalls(host, FleetBackend(fleet, card), log, SpanIndex("x"), record=record)

            async def ask(prompts: list[str] = PROMPTS, **options: Any) -> list[Any]:
                options = {"chat": False, **options}
                return await asyncio.to_thread(calls.worker_batch, prompts, **options)

            await body(ask, fleet)
        finally:
            await fleet.close()
            host.release_journal(journal)

    driver.shared()
    background.wait(asyncio.wait_for(work(), limit_s))
    return calls_in(folder / "log")


async def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    for _ in range(int(timeout_s / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("not in time")
