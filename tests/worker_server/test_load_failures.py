"""What can't be loaded is refused quickly, typed, before the engine starts where possible."""

import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.protocol import PROTOCOL_VERSION
from distill.protocol.message import Welcome
from distill.protocol.worker_link import WorkerFailed, WorkerHello, WorkerRefused

if importlib.util.find_spec("vllm") is None:  # to import it takes six seconds of every process
    pytest.skip("vLLM is not installed", allow_module_level=True)

QUICK_S = 20.0
"""Generous: these take 1-2 s on an idle machine; a start of vLLM would not fit."""
NO_NETWORK = {"HF_HUB_OFFLINE": "1"}


def failed(worker: Any, expected_kind: str) -> str:
    started = time.monotonic()
    worker.driver.greet()
    message = worker.driver.receive(WorkerFailed)
    assert message.kind == expected_kind
    assert worker.process.wait(timeout=10) == 4
    assert time.monotonic() - started < QUICK_S
    worker.await_empty_group()
    log = worker.log.read_text()
    assert message.detail in log
    assert "EngineCore" not in log
    return str(message.detail)


def test_an_unknown_model(start: Callable[..., Any], tmp_path: Path) -> None:
    detail = failed(
        start("--model", "nobody/nothing", **NO_NETWORK, HF_HOME=str(tmp_path)), "model"
    )
    assert "nobody/nothing" in detail
    assert "default model" in detail


def test_a_folder_without_a_model(start: Callable[..., Any], tmp_path: Path) -> None:
    detail = failed(start("--model", str(tmp_path)), "model")
    assert "config.json" in detail


def test_a_model_too_big_for_memory(start: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    with (tmp_path / "model.safetensors").open("wb") as weights:
        weights.truncate(4 << 40)  # sparse
    detail = failed(start("--model", str(tmp_path)), "memory")
    assert "GiB" in detail


def test_a_gpu_that_does_not_exist(start: Callable[..., Any]) -> None:
    assert "no GPU 97" in failed(start("--gpu", "97"), "device")


def test_a_core_that_does_not_exist(start: Callable[..., Any]) -> None:
    assert "4095" in failed(start("--cores", "4095"), "device")


@pytest.mark.vllm
def test_a_model_that_vllm_refuses(
    start: Callable[..., Any], model_folder: str, tmp_path: Path
) -> None:
    for file in Path(model_folder).iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    config["architectures"] = ["NoSuchModel"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "no-such-model"}))
    worker = start("--model", str(tmp_path))
    worker.driver.greet()
    message = worker.driver.receive(WorkerFailed, 120)
    assert message.kind == "engine"
    assert "no-such-model" in message.detail.lower()
    assert worker.process.wait(timeout=10) == 4
    worker.await_empty_group()


def test_a_driver_of_another_version_is_left(start: Callable[..., Any]) -> None:
    worker = start()
    worker.driver.receive(WorkerHello)
    worker.driver.send(Welcome(protocol=PROTOCOL_VERSION + 1, heartbeat_s=1.0))
    assert worker.process.wait(timeout=10) == 3
    assert "protocol" in worker.log.read_text()


def test_a_refused_worker_goes(start: Callable[..., Any]) -> None:
    worker = start()
    worker.driver.receive(WorkerHello)
    worker.driver.send(WorkerRefused("its name is taken"))
    assert worker.process.wait(timeout=10) == 3
    assert "the engine refused this worker: its name is taken" in worker.log.read_text()
