"""One set of runs and one tiny model for all tests here: importing torch takes longest."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from distill.training.weights import Weights, load
from distill.user_folders import cache_folder
from distill.worker_server import smollm2
from tests.training.sampled import TEXTS, Letters, Sampler, evaluated
from tests.training.tiny import tiny_model
from tests.training.toy import Toy, settings, toy_model


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """As of the default worker model, with 300 tokens: most of a step is logits over all."""
    transformers = pytest.importorskip("transformers", reason="needs the extra train")
    whole = transformers.AutoTokenizer.from_pretrained(smollm2.prepare(cache_folder()))
    return whole.train_new_from_iterator(TEXTS.values(), vocab_size=512)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """The folder of a tiny model."""
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model", tokenizer)


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Of six scored runs about three texts; with a real tokenizer, where one can be had."""
    has_one = importlib.util.find_spec("transformers") is not None
    tokenizer = request.getfixturevalue("tokenizer") if has_one else Letters()
    return evaluated(tmp_path_factory.mktemp("runs"), Sampler(tokenizer))


@pytest.fixture(scope="session")
def toy(tokenizer: Any) -> Toy:
    return Toy.of(tokenizer)


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory, tiny: Path, tokenizer: Any) -> Path:
    """The folder of a tiny model that answers the toy task half of the time."""
    return toy_model(tmp_path_factory.mktemp("toy") / "model", tiny, tokenizer)


@pytest.fixture(scope="session")
def toy_weights(toy_folder: Path) -> Weights:
    return load(settings(Path("none"), toy_folder))
