"""Versions of an adapter are loaded into two real engines under load: who answered, by parity.

Each logged call's log-probabilities are computed again, by transformers and PEFT, with each version
there was: they are those of the version that its line names, and of no other.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.supervisor.fleet import Fleet
from distill.supervisor.workers import WorkerSpec
from distill.traces import records
from distill.worker_server.adapter_files import files_hash
from distill.worker_settings import WorkerSettings, specs_of
from tests.training.tiny import tiny_adapter, tiny_model
from tests.worker_server.fleets import Ask, with_workers
from tests.worker_server.under_load import load_under_load

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(900)]

VERSIONS = 5
HEAD_SIZE = 32
SPREADS = 0.15, 1.0
"""Of the model's weights and the adapters': small and large enough for what follows."""
TOKENS = 12
SAME_NATS = 0.4
"""vLLM computes in bfloat16 on a CPU, and this test in float32: 0.11 at most in 120 answers."""
OTHER_NATS = 0.8
"""Another version's log-probability of some token of an answer differs by more: 1.5 at least."""


def test_each_answer_names_the_weights_that_gave_it(tmp_path: Path, tokenizer: Any) -> None:
    spread, adapters_spread = SPREADS
    model = tiny_model(tmp_path / "model", tokenizer, head_size=HEAD_SIZE, spread=spread)
    folders = [
        tiny_adapter(tmp_path / str(version), model, seed=version, spread=adapters_spread)
        for version in range(1, VERSIONS + 1)
    ]
    cores = [str(core) for core in sorted(os.sched_getaffinity(0))[:2]]
    settings = WorkerSettings(model=str(model), cores=tuple(cores), max_lora_rank=8)

    def specs_at(endpoint: str) -> list[WorkerSpec]:
        return specs_of(settings, endpoint)

    async def body(ask: Ask, fleet: Fleet) -> None:
        log = tmp_path / "log" / records.WORKER_LOG
        options = {"temperature": 1.0, "max_tokens": TOKENS}
        await load_under_load(ask, fleet, str(model), log, folders, **options)

    calls = with_workers(
        tmp_path, body, specs_at, record="ids+logprobs", start_s=400.0, limit_s=800.0
    )
    assert {call.error for call in calls} == {None}
    by = {(call.producer.name, call.model.weights_version) for call in calls}
    assert by == set(itertools.product(("worker-0", "worker-1"), range(VERSIONS + 1)))
    hashes = ["", *(files_hash(folder) for folder in folders)]
    for version, differences in enumerate(differences_by_version(model, folders, calls)):
        for call, difference in zip(calls, differences, strict=True):
            if call.model.weights_version == version:
                assert call.model.adapter_hash == hashes[version]
                assert difference < SAME_NATS, (call.id, version)
            else:
                assert difference > OTHER_NATS, (call.id, call.model, version)


def differences_by_version(
    model: Path, adapters: Sequence[Path], calls: Sequence[records.Call]
) -> Iterator[list[float]]:
    """Of the bare model, then of each adapter: for each call the largest |Δ log-probability|."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    for adapter in (None, *adapters):
        lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        if adapter is not None:
            lm = PeftModel.from_pretrained(lm, str(adapter))
        lm.eval()
        yield [_difference(lm, call) for call in calls]


def _difference(lm: Any, call: records.Call) -> float:
    import torch

    assert call.prompt_token_ids
    assert call.token_ids
    assert call.logprobs
    first = len(call.prompt_token_ids)
    ids = torch.tensor([[*call.prompt_token_ids, *call.token_ids]])
    with torch.no_grad():
        logprobs = lm(ids).logits[0, first - 1 : -1].log_softmax(-1)
    sampled = logprobs.gather(-1, ids[0, first:, None])[:, 0]
    return float((sampled - torch.tensor(call.logprobs)).abs().max())
