"""Where the parity gate stands: between the rows of every training and its steps."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from distill import export, run
from distill.errors import InputError
from distill.protocol.worker_link import ModelCard
from distill.traces import read, records
from distill.training.data import DataSet
from distill.training.gate import gate
from distill.training.logged import chosen, kin
from distill.training.parity import ParityError
from distill.training.settings import TrainSettings
from distill.training.sft import Sft, train
from tests.distill.scripted import SMALL, Supervisor, cell
from tests.training.tiny import TinyWorker, tiny_adapter

pytest.importorskip("trl", reason="needs the extra train")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, of each other

ASKS = "FINAL(worker_batch([f'{n} lamps' for n in range(12)], temperature=0.8))"


@pytest.fixture
def worker(tiny: Path, tmp_path: Path) -> TinyWorker:
    """One whose calls, and those of an adapter of it, are logged in ``tmp_path / "logs"``."""
    worker = TinyWorker(tiny)
    for adapter in (None, tiny_adapter(tmp_path / "mine", tiny)):
        if adapter is not None:
            worker.load_adapter(adapter)
        run("?", "text", Supervisor(cell(ASKS)), worker, limits=SMALL, log_dir=tmp_path / "logs")
    return worker


def exported(tmp_path: Path, name: str) -> DataSet:
    export(tmp_path / "logs", tmp_path / name, format=name)
    return DataSet.read(tmp_path / name)


def settings_of(model: Path, out: Path) -> TrainSettings:
    return TrainSettings(
        model=str(model), out=out, lora_rank=4, max_steps=1, batch_rows=2, device="cpu"
    )


def bare(card: ModelCard) -> ModelCard:
    """Of the model itself."""
    return msgspec.structs.replace(card, adapter=None, weights_version=0, adapter_hash="")


def test_calls_of_the_version_in_training_are_drawn_by_the_seed(
    worker: TinyWorker, tmp_path: Path
) -> None:
    data = exported(tmp_path, "token-sft")
    for card in (worker.card(), bare(worker.card())):
        drawn = [[call.id for call in chosen(data, card, 5, seed)] for seed in (0, 0, 1)]
        assert drawn[0] == drawn[1] != drawn[2]
        (model,) = {call.model for call in chosen(data, card, 5, 0)}
        assert kin(model, card) == "version"
        assert len(chosen(data, card, 100, 0)) == 12


def rewritten(tmp_path: Path, change: Callable[[int, dict[str, Any]], None]) -> None:
    """Have each call of the adapter, by its number, say something else in the log.

    All have come to an end, so that a row is made of each.
    """
    file = tmp_path / "logs" / records.WORKER_LOG
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    calls = [each for each in lines if each["type"] == "call"]
    for call in calls:
        call["finish_reason"] = "stop"
    for number, call in enumerate(each for each in calls if each["model"].get("adapter")):
        change(number, call)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_calls_without_ids_do_not_hide_those_that_can_be_compared(
    worker: TinyWorker, tmp_path: Path
) -> None:
    def silent(_number: int, call: dict[str, Any]) -> None:
        for name in ("token_ids", "prompt_token_ids", "logprobs"):
            call.pop(name, None)

    rewritten(tmp_path, silent)
    data = exported(tmp_path, "worker-sft")
    assert len(list(data.rows())) == 24
    drawn = chosen(data, worker.card(), 5, 0)
    assert {kin(call.model, worker.card()) for call in drawn} == {"model"}
    assert all(call.token_ids for call in drawn)


def test_constrained_calls_are_drawn_where_there_are_no_others(
    worker: TinyWorker, tmp_path: Path
) -> None:
    def mostly_constrained(number: int, call: dict[str, Any]) -> None:
        if number:
            call["sampling"]["choices"] = ["a", "b"]

    rewritten(tmp_path, mostly_constrained)
    data = exported(tmp_path, "worker-sft")
    (drawn,) = chosen(data, worker.card(), 5, 0)
    assert "choices" not in drawn.sampling
    assert kin(drawn.model, worker.card()) == "version"


def test_rows_with_ids_are_enough_where_their_logs_are_not(
    worker: TinyWorker, tmp_path: Path
) -> None:
    exact, text = exported(tmp_path, "token-sft"), exported(tmp_path, "worker-sft")
    logged = {
        call.id: call for told in read(tmp_path / "logs").runs.values() for call in told.calls
    }
    (tmp_path / "logs").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="--no-parity"):
        chosen(text, worker.card(), 5, 0)
    found = chosen(exact, worker.card(), 5, 0)
    assert len(found) == 5
    for call in found:
        assert call.token_ids == logged[call.id].token_ids
        assert call.prompt_token_ids == logged[call.id].prompt_token_ids
        assert kin(call.model, worker.card()) == "version"


def test_text_of_no_worker_is_not_compared(worker: TinyWorker, tmp_path: Path, tiny: Path) -> None:
    from distill.training.weights import load

    settings = settings_of(tiny, tmp_path / "out")
    data = exported(tmp_path, "supervisor-turns")
    assert "texts" in str(gate(Sft(), data, load(settings), settings))


def test_a_training_goes_through_the_gate_or_says_that_it_did_not(
    worker: TinyWorker, tmp_path: Path, tiny: Path
) -> None:
    exported(tmp_path, "worker-sft")
    broken = Path(shutil.copytree(tiny, tmp_path / "broken"))
    template = broken / "chat_template.jinja"
    template.write_text(template.read_text().replace("You are", "Thou art"))
    settings = settings_of(broken, tmp_path / "out")
    with pytest.raises(ParityError, match="Likely cause: template"):
        train(tmp_path / "worker-sft", settings)
    assert not settings.weights.exists()
    # The folder is the same training's: what weights come of it does not hang on the gate.
    trained = train(tmp_path / "worker-sft", dataclasses.replace(settings, parity_rows=0))
    assert trained.parity == "nothing was compared (--no-parity)"
    assert trained.weights.is_dir()
    passed = train(tmp_path / "worker-sft", settings_of(tiny, tmp_path / "passed"))
    assert "token ids agree; |Δ| of " in passed.parity
