"""One set of runs and one tiny model for all tests here: importing torch takes longest."""

from pathlib import Path
from typing import Any

import pytest

from distill.user_folders import cache_folder
from distill.worker_server import smollm2
from tests.training.sampled import Sampler, evaluated


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """That of the default worker model."""
    transformers = pytest.importorskip("transformers", reason="needs the extra train")
    return transformers.AutoTokenizer.from_pretrained(smollm2.prepare(cache_folder()))


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """Of six scored runs about three texts."""
    return evaluated(tmp_path_factory.mktemp("runs"), Sampler(tokenizer))
