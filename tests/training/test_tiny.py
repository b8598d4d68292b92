"""The tiny worker's word is true: runs of it are what the parity gate and trainers are tried on."""

from pathlib import Path
from typing import Any

import pytest

from distill import run
from distill.traces import read, records
from tests.distill.scripted import SMALL, Supervisor, cell
from tests.training.tiny import TinyWorker, tiny_adapter

pytest.importorskip("peft", reason="needs the extra train")

ASKS = "FINAL(worker_batch(['one lamp', 'two lamps'], temperature=0.8, max_tokens=12))"


def calls_of(folder: Path) -> list[records.Call]:
    (told,) = read(folder).runs.values()
    return told.calls


def test_a_call_has_the_ids_and_log_probabilities_of_its_answer(tiny: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    worker = TinyWorker(tiny)
    run("?", "text", Supervisor(cell(ASKS)), worker, limits=SMALL, log_dir=tmp_path)  # fmt: skip
    model: Any = AutoModelForCausalLM.from_pretrained(tiny)
    for call in calls_of(tmp_path):
        assert call.prompt_token_ids is not None
        assert call.token_ids is not None
        assert call.logprobs is not None
        ids = torch.tensor([[*call.prompt_token_ids, *call.token_ids]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(call.prompt_token_ids) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, ids[0, -len(call.token_ids) :, None])[:, 0]
        assert expected.tolist() == pytest.approx(call.logprobs, abs=1e-4)
        assert call.model.weights_hash == worker.card().weights_hash
        assert call.model.logprobs_mode == "raw_logprobs"


def test_an_adapter_answers_as_its_version(tiny: Path, tmp_path: Path) -> None:
    adapter = tiny_adapter(tmp_path / "mine", tiny)
    worker, other = TinyWorker(tiny, adapter), TinyWorker(tiny)
    assert worker.load_adapter(adapter) == 2
    asked = {"temperature": 0.8, "seed": 1}
    said, plain = (each.complete_batch(["one lamp"], **asked)[0] for each in (worker, other))
    assert said.card is not None
    assert (said.card.adapter, said.card.weights_version) == ("mine", 2)
    assert said.card.adapter_hash
    assert said.token_ids != plain.token_ids
    worker.drop_adapter()
    assert worker.complete_batch(["one lamp"], **asked)[0].token_ids == plain.token_ids
