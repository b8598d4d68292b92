"""Calls without a pause while versions of an adapter are loaded into all workers of a fleet."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from distill.supervisor.fleet import Fleet
from distill.traces import records

STREAMS = 4
"""Batches that are open at once, each followed by the next: half of them of the bare model."""
ADAPTER = "tuned"
Ask = Callable[..., Awaitable[list[Any]]]


class Answered:
    """What a growing worker.jsonl says of its calls: how many, and who answered with what."""

    def __init__(self, log: Path) -> None:
        self._log, self._read_bytes = log, 0
        self.calls = 0
        self.by: set[tuple[str, int]] = set()
        """Names of worker servers, each with a version that it has answered with."""

    def look(self) -> None:
        """Read on."""
        with self._log.open("rb") as file:
            file.seek(self._read_bytes)
            whole = file.read().rpartition(b"\n")[0]
        self._read_bytes += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            record = msgspec.json.decode(line, type=records.WorkerRecord)
            if isinstance(record, records.Call):
                self.calls += 1
                self.by.add((record.producer.name, record.model.weights_version))


async def load_under_load(
    ask: Ask, fleet: Fleet, model: str, log: Path, versions: Sequence[Path], **options: Any
) -> None:
    """Load these folders as versions 1, 2, …, each while calls are open, after a random number.

    The next is loaded once every worker has answered with the one before, the last one too. Raises
    what a call raises that fails.
    """
    numbers, has_ended = random.Random(7), asyncio.Event()
    workers = [worker.name for worker in fleet.workers()]
    answered = Answered(log)

    async def stream(number: int) -> None:
        asked = 0
        while not has_ended.is_set():
            prompts = [f"Stream {number} asks {asked + place}:" for place in range(6)]
            names = {} if number % 2 else {"model": ADAPTER}
            await ask(prompts, **names, **options)
            asked += len(prompts)

    async def answers(version: int, more: int) -> None:
        until = answered.calls + more
        while answered.calls < until or any((name, version) not in answered.by for name in workers):
            assert not any(each.done() for each in streams), "a call has failed"
            await asyncio.sleep(0.01)
            answered.look()

    served = await fleet.adapters.load(ADAPTER, str(versions[0]), model)
    streams = [asyncio.ensure_future(stream(number)) for number in range(STREAMS)]
    try:
        for version, folder in enumerate(versions, 1):
            if version > 1:
                served = await fleet.adapters.load(ADAPTER, str(folder), model)
            assert (served.version, served.refused) == (version, {})
            assert set(served.workers) == set(workers)
            await answers(version, numbers.randrange(1, 60))
        await answers(0, 0)
    finally:
        has_ended.set()
        outcomes = await asyncio.gather(*streams, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
