"""The parity gate: what is as it was logged passes, and each thing that can be broken is named."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from distill import run
from distill.traces import read, records
from distill.training.parity import Need, Parity, ParityError, check
from distill.training.replay import TOKENS_LIMIT, affordable, spoken
from tests.distill.scripted import SMALL, Supervisor, cell
from tests.training.tiny import TinyWorker, tiny_adapter, tiny_model

pytest.importorskip("peft", reason="needs the extra train")

ASKS = """\
worker_batch([f'{n} lamps' for n in (1, 2, 3)], temperature=0.7, top_p=0.9)
worker_batch(['one lamp', 'two lamps'], temperature=1.3, top_k=20)
worker('greedy lamp', repetition_penalty=1.3)
FINAL(worker('It is told of the lamp', chat=False, temperature=1.0))"""
Calls = Sequence[records.Call]
Log = Callable[..., Calls]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """The calls of a run with a worker."""
    logs = tmp_path_factory.mktemp("logs")

    def asked(worker: TinyWorker) -> Calls:
        done = run("?", "text", Supervisor(cell(ASKS)), worker, limits=SMALL, log_dir=logs)
        assert done.status == "final"
        return read(logs).runs[done.run_id].calls

    return asked


@pytest.fixture(scope="module")
def calls(tiny: Path, logged: Log) -> Calls:
    """Those of the tiny model as it is."""
    return logged(TinyWorker(tiny))


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., Any]:
    """The weights of a folder, as trainers load them."""
    from distill.training.settings import TrainSettings
    from distill.training.weights import load

    def of(model: Path, adapter: Path | None = None, *, rank: int | None = 4) -> Any:
        return load(
            TrainSettings(
                model=str(model), adapter=adapter, lora_rank=rank, out=tmp_path / "out",
                device="cpu",
            )
        )  # fmt: skip

    return of


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Path:
    """A folder like that of the tiny model, to be broken."""
    return Path(shutil.copytree(tiny, tmp_path / "broken"))


def refused(weights: Any, calls: Calls, need: Need = "weights") -> ParityError:
    with pytest.raises(ParityError) as caught:
        check(weights, calls, need)
    return caught.value


def agrees(parity: Parity) -> bool:
    assert parity.worst is not None
    return parity.tokens > 50 and parity.worst < 1e-4


# -- what passes


@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs"])
def test_the_weights_that_answered_pass(
    tiny: Path, logged: Log, loaded: Callable[..., Any], mode: str
) -> None:
    calls = logged(TinyWorker(tiny, logprobs_mode=mode))
    parity = check(loaded(tiny), calls)
    assert agrees(parity)
    assert parity.rows == len(calls) == 7
    assert str(parity).startswith("7 calls: token ids agree; |Δ| of 1")


def test_the_version_of_an_adapter_that_answered_passes(
    tiny: Path, tmp_path: Path, logged: Log, loaded: Callable[..., Any]
) -> None:
    adapter = tiny_adapter(tmp_path / "mine", tiny)
    weights = loaded(tiny, adapter)
    before = weights.model.training
    assert agrees(check(weights, logged(TinyWorker(tiny, adapter))))
    assert weights.model.training == before


def test_what_was_computed_in_bfloat16_passes_by_its_own_bound(
    tiny: Path, logged: Log, loaded: Callable[..., Any]
) -> None:
    parity = check(loaded(tiny), logged(TinyWorker(tiny, dtype="bfloat16")))
    assert parity.worst is not None
    assert parity.worst > 1e-3


# -- what is broken, and named


def test_another_tokenizer(
    copied: Path, tiny: Path, calls: Calls, loaded: Callable[..., Any]
) -> None:
    file = copied / "tokenizer.json"
    told = json.loads(file.read_bytes())
    vocabulary = told["model"]["vocab"]
    vocabulary["l"], vocabulary["a"] = vocabulary["a"], vocabulary["l"]
    file.write_text(json.dumps(told))
    for need in ("weights", "ids"):
        error = refused(loaded(copied), calls, need)
        assert error.cause == "tokenizer"
        assert any("tokenizer_hash" in each for each in error.evidence)


def test_a_smaller_vocabulary(
    tiny: Path, tmp_path: Path, tokenizer: Any, calls: Calls, loaded: Callable[..., Any]
) -> None:
    small = tokenizer.train_new_from_iterator(["lamp"], vocab_size=262)
    assert len(small) < len(tokenizer)
    error = refused(loaded(tiny_model(tmp_path / "small", small)), calls)
    assert error.cause == "tokenizer"


def test_another_chat_template(
    copied: Path, tiny: Path, calls: Calls, loaded: Callable[..., Any]
) -> None:
    file = copied / "chat_template.jinja"
    file.write_text(file.read_text().replace("You are", "Thou art"))
    error = refused(loaded(copied), calls)
    assert error.cause == "template"
    assert "Y" in error.evidence[0]
    assert "--chat-template" in str(error)


def test_other_weights(copied: Path, tiny: Path, calls: Calls, loaded: Callable[..., Any]) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    file = copied / "model.safetensors"
    tensors = load_file(file)
    torch.manual_seed(0)
    for name, tensor in tensors.items():
        tensors[name] = tensor + 0.01 * torch.randn_like(tensor)
    save_file(tensors, file, {"format": "pt"})
    error = refused(loaded(copied), calls)
    assert error.cause == "weights"
    assert any("weights_hash" in each for each in error.evidence)


def test_weights_that_were_rounded(
    copied: Path, tiny: Path, calls: Calls, loaded: Callable[..., Any]
) -> None:
    from safetensors.torch import load_file, save_file

    file = copied / "model.safetensors"
    rounded = {name: each.bfloat16().float() for name, each in load_file(file).items()}
    save_file(rounded, file, {"format": "pt"})
    error = refused(loaded(copied), calls)
    assert error.cause == "data type"
    assert "rounded to bfloat16" in str(error)


def test_answers_that_were_computed_in_bfloat16(
    tiny: Path, logged: Log, loaded: Callable[..., Any]
) -> None:
    worker = TinyWorker(tiny, dtype="bfloat16", said={"dtype": "float32"})
    error = refused(loaded(tiny), logged(worker))
    assert error.cause == "data type", error
    assert "answers were computed in bfloat16" in str(error)


@pytest.mark.parametrize("version", ["another", "none", "of the bare model"])
def test_another_version_of_the_adapter(
    tiny: Path, tmp_path: Path, logged: Log, loaded: Callable[..., Any], version: str
) -> None:
    first = tiny_adapter(tmp_path / "first", tiny)
    second = tiny_adapter(tmp_path / "second", tiny, seed=1)
    answered = None if version == "of the bare model" else first
    calls = logged(TinyWorker(tiny, answered))
    error = refused(loaded(tiny, None if version == "none" else second), calls)
    assert error.cause == "adapter"
    assert any("adapter_hash" in each for each in error.evidence)


def test_a_version_that_has_hardly_moved_is_told_by_its_hash(
    tiny: Path, tmp_path: Path, logged: Log, loaded: Callable[..., Any]
) -> None:
    """Where values are rounded they can't tell."""
    adapter = tiny_adapter(tmp_path / "near", tiny, spread=1e-4)
    calls = logged(TinyWorker(tiny, adapter, dtype="bfloat16"))
    check(loaded(tiny, adapter), calls)
    error = refused(loaded(tiny), calls)
    assert error.cause == "adapter"
    assert any("adapter_hash" in each for each in error.evidence)


@pytest.mark.parametrize(
    ("mode", "said"),
    [("processed_logprobs", "raw_logprobs"), ("raw_logprobs", "processed_logprobs")],
)
def test_log_probabilities_of_another_distribution(
    tiny: Path, logged: Log, loaded: Callable[..., Any], mode: str, said: str
) -> None:
    worker = TinyWorker(tiny, logprobs_mode=mode, said={"logprobs_mode": said})
    error = refused(loaded(tiny), logged(worker))
    assert error.cause == "log-probability mode"
    assert f"Said to be {said}, they are" in str(error)
    assert f"({mode})" in str(error)


def test_values_that_are_no_log_probabilities(
    tiny: Path, logged: Log, loaded: Callable[..., Any]
) -> None:
    worker = TinyWorker(tiny, said={"logprobs_mode": "raw_logits"})
    assert refused(loaded(tiny), logged(worker)).cause == "log-probability mode"


# -- what there is less of


def bare(call: records.Call, *fields: str) -> records.Call:
    return msgspec.structs.replace(call, **dict.fromkeys(fields))


def test_ids_alone_are_compared_and_told(
    tiny: Path, calls: Calls, loaded: Callable[..., Any]
) -> None:
    told = [bare(call, "logprobs") for call in calls]
    parity = check(loaded(tiny), told)
    assert parity.worst is None
    assert "the weights are unchecked" in str(parity)
    assert "--record ids+logprobs" in str(parity)


def test_constrained_answers_are_told_apart(
    tiny: Path, calls: Calls, loaded: Callable[..., Any]
) -> None:
    bound = [
        msgspec.structs.replace(call, sampling={**call.sampling, "choices": ["yes", "no"]})
        for call in calls
    ]
    assert "constrained" in str(check(loaded(tiny), bound))


def test_without_ids_the_template_is_compared_as_text(
    tiny: Path, copied: Path, logged: Log, loaded: Callable[..., Any]
) -> None:
    """A worker server logs the prompt as the model read it; a handler only what was asked."""
    worker = TinyWorker(tiny)
    calls = [bare(each, "prompt_token_ids", "token_ids", "logprobs") for each in logged(worker)]
    assert refused(loaded(tiny), calls).cause == "nothing to compare"
    read_by = worker.tokenizer.apply_chat_template
    seen = [
        msgspec.structs.replace(
            call,
            prompt=read_by(list(call.messages), tokenize=False, add_generation_prompt=True),
        )
        for call in calls
        if call.messages
    ]
    assert "the chat template agrees" in str(check(loaded(tiny), seen, "text"))
    file = copied / "chat_template.jinja"
    file.write_text(file.read_text().replace("You are", "Thou art"))
    assert refused(loaded(copied), seen, "text").cause == "template"


def test_text_of_another_model_needs_no_parity_and_its_ids_only_the_tokenizer(
    tiny: Path, tmp_path: Path, tokenizer: Any, logged: Log, loaded: Callable[..., Any]
) -> None:
    other = tiny_model(tmp_path / "teacher", tokenizer, seed=5)
    calls, weights = logged(TinyWorker(other)), loaded(tiny)
    assert check(weights, calls, "text").rows == 0
    told = check(weights, calls, "ids")
    assert (told.rows, told.worst) == (7, None)
    assert refused(weights, calls, "weights").cause == "weights"


def test_text_of_the_same_model_with_another_adapter_must_agree_in_ids(
    tiny: Path, copied: Path, tmp_path: Path, logged: Log, loaded: Callable[..., Any]
) -> None:
    calls = logged(TinyWorker(tiny, tiny_adapter(tmp_path / "mine", tiny)))
    assert "other weights" in str(check(loaded(tiny), calls, "text"))
    file = copied / "chat_template.jinja"
    file.write_text(file.read_text().replace("You are", "Thou art"))
    assert refused(loaded(copied), calls, "text").cause == "template"


def test_hostile_ids_are_refused_and_not_computed(
    tiny: Path, calls: Calls, loaded: Callable[..., Any]
) -> None:
    (call, *_) = calls
    for strange in (1 << 40, -1):
        odd = msgspec.structs.replace(call, token_ids=(strange, *(call.token_ids or ())[1:]))
        assert refused(loaded(tiny), [odd]).cause == "tokenizer"


def test_long_prompts_are_replayed_as_far_as_it_is_worth_it(tiny: Path, calls: Calls) -> None:
    (call, *_) = calls
    row = spoken(call)
    assert row is not None
    long = dataclasses.replace(row, prompt_ids=[1] * (TOKENS_LIMIT // 2))
    assert len(affordable([long] * 5)) == 1
    assert len(affordable([row, long, row, long])) == 3
