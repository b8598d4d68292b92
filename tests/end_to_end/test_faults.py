"""Exactly-once answers: whatever is killed or stopped, each prompt is answered once, in order."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from distill.supervisor import background, driver
from distill.supervisor.dispatch import DEATHS_LIMIT
from tests.end_to_end.trials import Fault, Outcome, Trials, joining, planned
from tests.engine_stand_in.spec import MODEL, worker_spec
from tests.engine_stand_in.vllm.tokens import answer_to

COUNT = 10_000
PROMPTS = [f"prompt {number}" for number in range(COUNT)]
RIGHT = [answer_to(prompt) for prompt in PROMPTS]
WORKERS = 3
SLOTS = 32


def trials(
    folder: Path, seeds: Mapping[int, Sequence[Fault]], latency_s: float, poison: int | None = None
) -> None:
    """One trial after the other, on one fleet: two workers of its own and one that joins."""
    host = driver.shared()
    endpoint = host.endpoints["workers"]

    async def work() -> None:
        specs = [
            worker_spec(
                endpoint,
                f"w{n}",
                slots=SLOTS,
                latency_s=latency_s,
                through_core=True,
                poison="" if poison is None else PROMPTS[poison],
            )
            for n in range(WORKERS - 1)
        ]
        core = str(min(os.sched_getaffinity(0)))
        join = joining(host, "--worker", str(MODEL), "--cores", core)
        fleet = Trials(specs, join, specs[0].env)
        try:
            await fleet.ready()
            for seed, faults in seeds.items():
                outcome = await fleet.trial(folder / str(seed), PROMPTS, faults)
                told = f"{outcome.told}, {outcome.dropped_results} dropped"
                done = "; ".join(outcome.done)
                print(f"seed {seed}: {outcome.took_s:.1f} s, {told}; {done}")  # noqa: T201
                check(outcome, poison)
        finally:
            await fleet.close()

    background.wait(asyncio.wait_for(work(), 60 * (1 + len(seeds))))


def check(outcome: Outcome, poison: int | None) -> None:
    """None lost, none twice, none in another's place; in the log as in the answer."""
    right = [None if n == poison else answer for n, answer in enumerate(RIGHT)]
    assert outcome.answers == right
    assert sorted(call.item for call in outcome.calls) == list(range(COUNT))
    assert len({call.id for call in outcome.calls}) == COUNT
    for call in outcome.calls:
        assert (call.prompt, call.response) == (PROMPTS[call.item], right[call.item])
        assert call.attempt <= DEATHS_LIMIT
        assert (call.error and call.error.kind) == ("poison" if call.item == poison else None)


def test_two_trials(tmp_path: Path) -> None:
    """Kills, and a stop that is over before anybody takes it for a death."""
    stop = Fault(0.05, 2, "server", signal.SIGSTOP, 1.5)
    seeds = {seed: [stop, *planned(seed, WORKERS, within_s=1.5, stops=False)] for seed in (1, 2)}
    trials(tmp_path, seeds, 0.02)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("block", range(10))
def test_a_hundred_trials(tmp_path: Path, block: int) -> None:
    seeds = range(100 + 10 * block, 110 + 10 * block)
    trials(tmp_path, {seed: planned(seed, WORKERS, within_s=5.0) for seed in seeds}, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_poison_among_ten_thousand(tmp_path: Path, seed: int) -> None:
    """While workers die for other reasons, too."""
    trials(tmp_path, {seed: planned(seed, WORKERS, within_s=5.0)}, 0.05, poison=4999 * seed)
