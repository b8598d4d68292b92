import hashlib
import json
import os
from pathlib import Path

import pytest

from distill.worker_server import model
from distill.worker_server.device import Device
from distill.worker_server.errors import ModelTooBig, ModelUnavailable
from distill.worker_server.fingerprint import CACHE_FILE, fingerprint
from distill.worker_server.settings import cpu_cache_bytes

GIB = 1 << 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The smallest folder that passes for a model."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ x }}"}))
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_a_folder_is_itself(folder: Path, tmp_path: Path) -> None:
    resolved = model.resolve(str(folder), tmp_path)
    assert resolved.path == folder
    assert resolved.name == str(folder)
    assert resolved.weights_bytes == 7


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("config.json", "config.json"),
        ("tokenizer.json", "a tokenizer"),
        ("model.safetensors", "weights"),
    ],
)
def test_what_is_missing_is_named(folder: Path, tmp_path: Path, missing: str, named: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ModelUnavailable, match=f"no {named}"):
        model.resolve(str(folder), tmp_path)


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "no-such-name", "a/b/c"]
)
def test_what_can_not_be_an_id_is_not_looked_up(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="not a Hugging Face id"):
        model.resolve(name, tmp_path)


def test_a_file_is_not_a_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="is a file"):
        model.resolve(str(folder / "config.json"), tmp_path)


def test_an_id_in_the_local_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="comes with vLLM")
    monkeypatch.setattr(hub, "snapshot_download", lambda _name, **_: str(folder))
    assert model.resolve("owner/name", tmp_path).path == folder


def test_the_smallest_of_several_formats_counts_once(folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"the same weights again")
    assert model.resolve(str(folder), tmp_path).weights_bytes == 7


def test_too_big_says_both_numbers(folder: Path, tmp_path: Path) -> None:
    small = Device(kind="cpu", name="cpu", memory_bytes=GIB)
    with pytest.raises(ModelTooBig, match=r"needs about 2\.0 GiB .* cpu has 1\.0 GiB"):
        model.check_fits(model.resolve(str(folder), tmp_path), small)


def test_the_cpu_cache_is_modest(folder: Path, tmp_path: Path) -> None:
    resolved = model.resolve(str(folder), tmp_path)
    sizes = [
        cpu_cache_bytes(resolved, Device(kind="cpu", name="cpu", memory_bytes=gib * GIB))
        for gib in (2, 9, 1000)
    ]
    assert sizes == [pytest.approx(GIB / 4), pytest.approx(2 * GIB, rel=0.01), 4 * GIB]


def test_hashes_follow_the_content(folder: Path, tmp_path: Path) -> None:
    resolved = model.resolve(str(folder), tmp_path)
    first = fingerprint(resolved, tmp_path)
    assert first.template == hashlib.sha256(b"{{ x }}").hexdigest()
    assert first == fingerprint(resolved, tmp_path)
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    second = fingerprint(resolved, tmp_path)
    assert second.weights != first.weights
    assert second.tokenizer == first.tokenizer


def test_a_known_file_is_not_read_again(folder: Path, tmp_path: Path) -> None:
    resolved = model.resolve(str(folder), tmp_path)
    first = fingerprint(resolved, tmp_path)
    known = json.loads((tmp_path / CACHE_FILE).read_text())
    (tmp_path / CACHE_FILE).write_text(json.dumps(dict.fromkeys(known, "0" * 64)))
    assert fingerprint(resolved, tmp_path).weights != first.weights  # taken from the cache


@pytest.mark.parametrize("content", ["not json", "[]"])
def test_a_damaged_cache_only_costs_time(folder: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / CACHE_FILE).write_text(content)
    assert fingerprint(model.resolve(str(folder), tmp_path), tmp_path).weights
