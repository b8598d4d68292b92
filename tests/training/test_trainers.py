"""Every export is read by the one it is for: `datasets`, and TRL's trainers, which take real steps.

The blocks of docs/trainers.md are run as they stand, in a folder with a tiny model and the exports.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from distill import export
from distill.exports.formats import FORMATS
from tests.training.tiny import tiny_model

pytest.importorskip("trl", reason="needs the extra train")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, of each other

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "trainers.md"
BLOCKS = re.findall(
    r"^```python\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.MULTILINE | re.DOTALL
)
ON_TEXT, ON_TOKENS, PREFERRED, TAUGHT, REWARDED, RECORDED = BLOCKS
ON_CPU = "use_cpu=True, bf16=False, save_strategy='no', disable_tqdm=True"


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, logs: Path, tokenizer: Any) -> Path:
    """A folder with a tiny ``model``, a ``teacher``, and the export of each format in ``data``."""
    folder = tmp_path_factory.mktemp("workshop")
    for seed, name in enumerate(("model", "teacher")):
        tiny_model(folder / name, tokenizer, seed=seed)
    for name in FORMATS:
        export(logs, folder / "data" / name, format=name)
    return folder


@pytest.fixture
def in_workshop(workshop: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(workshop)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    return workshop


def trained(block: str) -> Any:
    """What a block of the document leaves, once its trainer has trained; its weights have moved."""
    import torch
    from transformers import AutoModelForCausalLM

    names: dict[str, Any] = {}
    small = "" if "batch_size" in block else ", per_device_train_batch_size=2"
    here = block.replace("max_steps=2", f"max_steps=2, {ON_CPU}{small}")
    exec(compile(here, str(DOCUMENT), "exec"), names)
    trainer = names["trainer"]
    assert trainer.state.global_step == 2
    before = AutoModelForCausalLM.from_pretrained("model", dtype=torch.float32).state_dict()
    after = trainer.model.state_dict()
    assert any(not torch.equal(after[name].float(), before[name]) for name in before)
    return trainer


def of(block: str, format_name: str) -> str:
    """The block, for another format that the same trainer reads."""
    found, count = re.subn(r"data/[\w-]+/", f"data/{format_name}/", block)
    assert count == 1
    return found


def again(name: str) -> Any:
    """A format whose rows look like another's, which is trained on in every run of the tests."""
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["worker-sft", "worker-sft-text", again("supervisor-turns")])
def test_text_is_trained_on(in_workshop: Path, name: str) -> None:
    trainer = trained(of(ON_TEXT, name))
    row = trainer.train_dataset[0]
    assert -100 in row["labels"]
    assert any(label != -100 for label in row["labels"])


def test_tokens_are_trained_on_as_they_were_sampled(in_workshop: Path, tokenizer: Any) -> None:
    trainer = trained(ON_TOKENS)
    assert len(trainer.train_dataset) == 30
    text = tokenizer.decode(trainer.train_dataset[0]["input_ids"])
    retokenised = tokenizer(text)["input_ids"]
    assert retokenised != trainer.train_dataset[0]["input_ids"]
    for row in trainer.train_dataset:
        start = row["labels"].count(-100)
        assert row["labels"] == [-100] * start + row["input_ids"][start:]


@pytest.mark.parametrize(
    "name", ["worker-preferences", "worker-preferences-text", again("supervisor-preferences")]
)
def test_preferences_are_trained_on(in_workshop: Path, name: str) -> None:
    trainer = trained(of(PREFERRED, name))
    assert len(trainer.train_dataset) == 3


def test_prompts_are_answered_next_to_a_teacher(in_workshop: Path) -> None:
    trained(TAUGHT)


def test_prompts_are_answered_for_a_reward(in_workshop: Path) -> None:
    trained(REWARDED)


def test_episodes_are_trained_on(in_workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    trained(RECORDED)


@pytest.mark.parametrize("name", FORMATS)
def test_datasets_loads_what_was_written(
    workshop: Path, in_workshop: Path, logs: Path, tmp_path: Path, name: str
) -> None:
    """JSON lines and Parquet give the same rows, and those that were written."""
    from datasets import load_dataset

    def loaded(kind: str, file: Path) -> list[dict[str, Any]]:
        cache = str(tmp_path / "cache")
        return list(load_dataset(kind, data_files=str(file), split="train", cache_dir=cache))

    lines = (workshop / "data" / name / "train.jsonl").read_text("utf-8").splitlines()
    written = [json.loads(line) for line in lines]
    assert loaded("json", workshop / "data" / name / "train.jsonl") == written
    if not FORMATS[name].only_jsonl:
        export(logs, tmp_path / "out", format=name, as_="parquet")
        assert loaded("parquet", tmp_path / "out" / "train.parquet") == written
