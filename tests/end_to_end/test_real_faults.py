"""The trials of ``test_faults`` on real engines: two worker servers, a core each."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from distill.supervisor import background, driver
from distill.supervisor.children import scrubbed_environment
from distill.supervisor.workers import WorkerSpec
from tests.end_to_end.trials import Outcome, Trials, planned

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(3600)]

COUNT = 200
PROMPTS = [f"Question: What is {n} and {n}?\nAnswer:" for n in range(COUNT)]
READY_S = 600.0
"""Two engines load at once, on the cores that they serve on."""


def spec(endpoint: str, number: int, core: int) -> WorkerSpec:
    argv = (
        *(sys.executable, "-m", "distill.worker_server", "--connect", endpoint),
        *("--worker", f"w{number}", "--cores", str(core)),
        *("--window-tokens", "256", "--slots", "16"),
    )
    return WorkerSpec(f"w{number}", argv, scrubbed_environment())


def check(outcome: Outcome) -> None:
    """None lost, none twice, none in another's place; in the log as in the answer."""
    assert len(outcome.answers) == COUNT
    assert sorted(call.item for call in outcome.calls) == list(range(COUNT))
    for call in outcome.calls:
        assert call.error is None
        assert (call.prompt, call.response) == (PROMPTS[call.item], outcome.answers[call.item])


def test_three_trials(tmp_path: Path) -> None:
    host = driver.shared()

    async def work() -> None:
        cores = sorted(os.sched_getaffinity(0))
        endpoint = host.endpoints["workers"]
        fleet = Trials([spec(endpoint, n, cores[-n]) for n in range(2)], ready_s=READY_S)
        try:
            await fleet.ready()
            whole = await fleet.trial(tmp_path / "whole", PROMPTS, (), max_tokens=24)
            check(whole)
            for seed in range(3):
                faults = planned(seed, 2, within_s=0.7 * whole.took_s)
                outcome = await fleet.trial(tmp_path / str(seed), PROMPTS, faults, max_tokens=24)
                check(outcome)
                assert outcome.done
                same = sum(map(str.__eq__, outcome.answers, whole.answers))
                told = f"{outcome.told}, {same} of {COUNT} as when undisturbed"
                took = f"{outcome.took_s:.1f} s for {whole.took_s:.1f} s"
                print(f"seed {seed}: {took}; {told}; {'; '.join(outcome.done)}")  # noqa: T201
        finally:
            await fleet.close()

    background.wait(asyncio.wait_for(work(), 3500))
