"""On-policy distillation by real steps of a tiny model: towards a teacher, on what it has said."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("trl", reason="needs the extra train")

from distill.errors import InputError
from distill.exports.formats.token_sft import TokenSftRow
from distill.training import opd
from distill.training.data import DataSet
from distill.training.opd import Opd
from distill.training.weights import Weights, load
from tests.training.tiny import tiny_adapter, tiny_model
from tests.training.toy import Toy, data_set, exact_rows, sampled, settings

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, of each other


@pytest.fixture(scope="session")
def student(tiny: Path) -> Weights:
    """The tiny model as it is made: what it says is noise."""
    return load(settings(Path("none"), tiny))


@pytest.fixture(scope="session")
def rows(student: Weights, toy: Toy) -> list[TokenSftRow]:
    return exact_rows(sampled(student, toy, 8), toy, student.card)


def likelihood(folder: Path, toy: Toy) -> float:
    """How much of what a model says is the right answer."""
    drawn = sampled(load(settings(Path("none"), folder)), toy, 32, seed=5)
    return sum(toy.right[each.prompt] in each.ids for each in drawn) / len(drawn)


def test_it_learns_from_its_own_answers_what_a_teacher_would_say(
    student: Weights, rows: list[TokenSftRow], toy: Toy, toy_folder: Path, tmp_path: Path
) -> None:
    data = data_set(tmp_path / "data", "token-sft", rows)
    asked = settings(tmp_path / "out", student.folder.path, learning_rate=0.02, epochs=8.0)
    done = opd.train(data, asked, method=Opd(teacher=str(toy_folder)))
    assert done.fitted.last_loss < done.fitted.first_loss / 2
    assert likelihood(done.weights, toy) > likelihood(student.folder.path, toy) + 0.1
    told = json.loads((tmp_path / "out" / "training.json").read_bytes())
    assert told["asked"]["settings"]["teacher"] == str(toy_folder)


def losses(student: Weights, rows: list[TokenSftRow], method: Opd, tmp_path: Path) -> list[float]:
    """Of some steps, each on all of the rows."""
    data = data_set(tmp_path / "data", "token-sft", rows)
    given: dict[str, Any] = {
        "batch_rows": len(rows),
        "max_steps": 4,
        "lora_rank": 4,
        "save_every_steps": 4,
    }
    asked = settings(tmp_path / "out", student.folder.path, **given)
    method.check(DataSet.read(data), asked)
    made = method.trainer(load(asked), DataSet.read(data), asked)
    made.trainer.train()
    return [each["loss"] for each in made.trainer.state.log_history if "loss" in each]


def test_an_adapter_of_the_same_model_teaches(
    student: Weights, rows: list[TokenSftRow], tmp_path: Path
) -> None:
    adapter = tiny_adapter(tmp_path / "adapter", student.folder.path)
    found = losses(student, rows, Opd(teacher_adapter=adapter), tmp_path)
    assert found[0] > 0.1
    # The first step is of the warm-up, with a rate of 0; each of the others goes down.
    assert found[1:] == sorted(set(found[1:]), reverse=True)


def test_who_teaches_itself_has_nothing_to_learn(
    student: Weights, rows: list[TokenSftRow], tmp_path: Path
) -> None:
    found = losses(student, rows, Opd(teacher=str(student.folder.path)), tmp_path)
    assert found[:2] == pytest.approx([0, 0], abs=1e-5)  # then Adam makes steps of rounding errors


def test_a_teacher_with_a_padded_vocabulary_is_the_same_one(
    student: Weights, rows: list[TokenSftRow], toy_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    padded = AutoModelForCausalLM.from_pretrained(toy_folder)
    padded.resize_token_embeddings(len(tokenizer) + 40)
    padded.save_pretrained(tmp_path / "padded")
    tokenizer.save_pretrained(tmp_path / "padded")
    plain = losses(student, rows, Opd(teacher=str(toy_folder)), tmp_path / "plain")
    found = losses(student, rows, Opd(teacher=str(tmp_path / "padded")), tmp_path / "more")
    assert found == pytest.approx(plain, abs=1e-4)


def refused(rows: list[TokenSftRow], tiny: Path, tmp_path: Path, method: Opd) -> str:
    data = data_set(tmp_path / "data", "token-sft", rows)
    with pytest.raises(InputError) as caught:
        opd.train(data, settings(tmp_path / "out", tiny), method=method)
    return str(caught.value)


def test_what_cannot_teach_is_refused(
    rows: list[TokenSftRow], tiny: Path, tokenizer: Any, tmp_path: Path
) -> None:
    assert "--teacher" in refused(rows, tiny, tmp_path / "none", Opd())
    other = tokenizer.train_new_from_iterator(["quite other words than those"], vocab_size=280)
    folder = tiny_model(tmp_path / "other", other)
    said = refused(rows, tiny, tmp_path / "a", Opd(teacher=str(folder)))
    assert "tokens have another id or none" in said
    missing = Opd(teacher=str(tmp_path / "nowhere"))
    assert "nowhere" in refused(rows, tiny, tmp_path / "b", missing)
    assert "no LoRA adapter" in refused(rows, tiny, tmp_path / "c", Opd(teacher_adapter=folder))


def test_answers_of_other_weights_are_refused(
    rows: list[TokenSftRow], tiny: Path, toy_folder: Path, tmp_path: Path
) -> None:
    others = [msgspec.structs.replace(row, weights_hash="a" * 64) for row in rows]
    said = refused(others, tiny, tmp_path, Opd(teacher=str(toy_folder)))
    assert "no row was sampled by the weights in training" in said
